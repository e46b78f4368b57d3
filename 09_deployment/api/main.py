"""Serve a checkpoint over HTTP.

    python 09_deployment/api/main.py                                   # the newest run, 127.0.0.1:8000
    python 09_deployment/api/main.py --checkpoint checkpoints/small_gpt --port 9000

    curl http://127.0.0.1:8000/generate -H 'Content-Type: application/json' \\
         -d '{"prompt": "Return the", "max_tokens": 50}'
"""

from deployment.server import main

if __name__ == "__main__":
    raise SystemExit(main())
