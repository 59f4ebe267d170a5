"""What to paste into other programs so that they ask this endpoint."""

from __future__ import annotations

import json
import shlex


def client_settings(url: str, model: str, *, has_key: bool) -> list[tuple[str, str]]:
    """Return programs, and what each wants to be told.

    Args:
        url: The endpoint's, without a path.
        model: The model's id.
        has_key: Whether it asks for an API key; the key itself is never shown.

    Source: the programs' own documentation.
    """
    key = "YOUR_KEY" if has_key else "none"
    base = f"{url}/v1"
    question = {"model": model, "messages": [{"role": "user", "content": "Namaste!"}]}
    bearer = f" -H 'Authorization: Bearer {key}'" if has_key else ""
    zed = {
        "language_models": {
            "openai_compatible": {
                "llmedge": {
                    "api_url": base,
                    "available_models": [{"name": model, "max_tokens": 4096}],
                }
            }
        }
    }
    return [
        (
            "openai, and what reads its variables",
            f"export OPENAI_BASE_URL={base} OPENAI_API_KEY={key}",
        ),
        (
            "curl",
            f"curl {base}/chat/completions{bearer} -H 'Content-Type: application/json' "
            f"-d {shlex.quote(json.dumps(question))}",
        ),
        (
            "llm (extra-openai-models.yaml)",
            f"- model_id: llmedge\n  model_name: {json.dumps(model)}\n  api_base: {base}"
            + ("\n  api_key_name: llmedge" if has_key else ""),
        ),
        (
            "LangChain",
            f"ChatOpenAI(base_url={base!r}, api_key={key!r}, model={model!r})",
        ),
        ("Open WebUI", f"export OPENAI_API_BASE_URL={base} OPENAI_API_KEY={key}"),
        (
            "Continue (config.yaml)",
            f"models:\n  - name: llmedge\n    provider: openai\n    model: {json.dumps(model)}\n"
            f"    apiBase: {base}\n    apiKey: {key}",
        ),
        ("Zed (settings.json)", json.dumps(zed, indent=2)),
        ("Anthropic's clients", f"export ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY={key}"),
        ("Ollama's clients", f"export OLLAMA_HOST={url}"),
    ]
