"""Make an API key for the server.

    python 09_deployment/new_key.py alice

The key is printed once, for the client; its hash goes into the settings, as `api_keys: {alice: "sha256:…"}`.
"""

from deployment.new_key_command import main

if __name__ == "__main__":
    raise SystemExit(main())
