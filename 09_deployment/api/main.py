"""Serve a checkpoint over HTTP: a chat page, and an API that works with OpenAI's clients.

    python 09_deployment/api/main.py                                   # the newest run, http://127.0.0.1:8000
    python 09_deployment/api/main.py --checkpoint checkpoints/small_gpt --port 9000
    python 09_deployment/api/main.py --config configs/server.yaml

    curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\
         -d '{"prompt": "Return the", "max_tokens": 50}'
"""

from deployment.main_command import main

if __name__ == "__main__":
    raise SystemExit(main())
