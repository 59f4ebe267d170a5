import pytest

from llmedge.chat_format.detect import ChatFormat, detect
from tests.chat_format.rendering import SMALL, render

REAL = {
    "ByteDance-Seed-OSS": ("seed_oss", "<seed:think>"),
    "Bielik-11B-v3.0-Instruct": ("hermes", "<think>"),
    "GLM-4.6": ("glm", "<think>"),
    "GLM-4.7-Flash": ("glm", "<think>"),
    "HuggingFaceTB-SmolLM3-3B": ("hermes", "<think>"),
    "MiMo-VL": ("hermes", None),
    "Apriel-1.6-15b-Thinker-fixed": ("apriel", None),
    "unsloth-Apriel-1.5": ("apriel", None),
    "Mistral-Small-3.2-24B-Instruct-2506": ("mistral_call_id", None),
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": ("qwen3_coder", "<think>"),
    "NVIDIA-Nemotron-Nano-v2": ("nemotron_v2", "<think>"),
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": ("hermes", None),
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": ("hermes", None),
    "Qwen-QwQ-32B": ("hermes", "<think>"),
    "Qwen-Qwen2.5-7B-Instruct": ("hermes", None),
    "Qwen-Qwen3-0.6B": ("hermes", "<think>"),
    "Qwen3-Coder": ("qwen3_coder", None),
    "Qwen3.5-4B": ("qwen3_coder", "<think>"),
    "Reka-Edge": ("hermes", "<think>"),
    "Spark2.5": ("glm", "<think>"),
    "StepFun3.5-Flash": ("qwen3_coder", "<think>"),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": ("deepseek_r1", "<think>"),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": ("deepseek_r1", "<think>"),
    "deepseek-ai-DeepSeek-V3.1": ("deepseek", "<think>"),
    "deepseek-ai-DeepSeek-V3.2": ("deepseek_v3_2", "<think>"),
    "deepseek-ai-DeepSeek-V4": ("deepseek_v4", "<think>"),
    "deepseek-ai-DeepSeek-V4-Flash-0731": ("deepseek_v4", "<think>"),
    "google-gemma-2-2b-it": ("gemma", None),
    "google-gemma-4-31B-it": ("gemma4", "<|channel>thought\n"),
    "google-gemma-4-31B-it-interleaved": ("gemma4", "<|channel>thought\n"),
    "ibm-granite-granite-3.3-2B-Instruct": ("granite", "<think>"),
    "ibm-granite-granite-4.0": ("hermes", None),
    "ibm-granite-granite-4.1": ("hermes", None),
    "inclusionai-ling-3.0-flash": ("glm", "<think>"),
    "llama-cpp-deepseek-r1": ("deepseek_r1", "<think>"),
    "meta-llama-Llama-3.1-8B-Instruct": ("llama", None),
    "meta-llama-Llama-3.2-3B-Instruct": ("llama", None),
    "meta-llama-Llama-3.3-70B-Instruct": ("llama", None),
    "mistralai-Ministral-3-14B-Reasoning-2512": ("mistral_v11", "[THINK]"),
    "mistralai-Mistral-Nemo-Instruct-2407": ("mistral", None),
    "openai-gpt-oss-120b": ("gpt_oss", "<|channel|>analysis<|message|>"),
    "poolside-Laguna-S-2.1": ("glm", "<think>"),
    "poolside-Laguna-XS-2.1": ("glm", "<think>"),
    "poolside-Laguna-XS.2": ("glm", "<think>"),
    "unsloth-mistral-Devstral-Small-2507": ("mistral_v11", None),
}


def test_real_templates_are_told_apart_and_no_other_is_taken_for_one(llama_templates):
    found: dict[str, tuple[str, str | None]] = {}
    for name, source in llama_templates.items():
        known = detect(source)
        if known.family != "none":
            found[name] = (known.family, known.reasoning.start if known.reasoning else None)
    assert found == REAL


def test_small_templates_are_told_apart():
    families = {name: detect(source).family for name, source in SMALL.items()}
    assert families == {
        "deepseek": "deepseek_r1",
        "gemma": "gemma",
        "hermes": "hermes",
        "mistral": "mistral",
    }


@pytest.mark.parametrize(
    ("template", "family"),
    [
        ("", "none"),
        ("{{ messages[0].content }}", "none"),
        ("<|start_header_id|>", "none"),
        ("<|im_start|>", "hermes"),
        ("<|im_start|> functools <|tool_call_start|>", "none"),
        ("<start_function_call>x<end_function_call>", "function_gemma"),
    ],
)
def test_marks_tell_the_family(template, family):
    assert detect(template).family == family


def test_reasoning_in_words_is_known():
    known = detect("Here is my thought process: … Here is my response:")
    assert known.reasoning is not None
    assert known.reasoning.end == "Here is my response:"
    assert detect("no reasoning").reasoning is None


def test_a_prompt_that_ends_inside_of_reasoning_is_told():
    known = detect(SMALL["hermes"])
    prompt = render(SMALL["hermes"], [{"role": "user", "content": "<think>"}])
    assert known.opens_reasoning(prompt)
    assert not known.opens_reasoning(prompt + "</think>\n")
    assert not ChatFormat("none").opens_reasoning("<think>")


def test_real_prompts_that_end_inside_of_reasoning_are_told(llama_templates):
    def opens(name: str, **variables) -> bool:
        source = llama_templates[name]
        prompt = render(source, [{"role": "user", "content": "Hi"}], **variables)
        return detect(source).opens_reasoning(prompt)

    assert opens("deepseek-ai-DeepSeek-R1-Distill-Llama-8B")
    assert opens("NVIDIA-Nemotron-Nano-v2")
    assert opens("Qwen3.5-4B")
    assert not opens("Qwen3.5-4B", enable_thinking=False)
    assert not opens("Qwen-Qwen3-0.6B")
    assert not opens("openai-gpt-oss-120b")
    assert opens("deepseek-ai-DeepSeek-V3.1", thinking=True)
