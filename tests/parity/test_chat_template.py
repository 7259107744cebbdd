"""Our token ids against transformers' chat template, written here in the form Qwen3-VL publishes it."""

from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

import egem
from egem.data.chat import ChatTokenizer
from egem.records import IMAGE_MARK, Message

FOLDER = Path(egem.__file__).parent / "assets" / "tiny_tokenizer"

TEMPLATE = """
{%- macro content_of(content) %}
    {%- if content is string %}{{- content }}
    {%- else %}
        {%- for item in content %}
            {%- if 'image' in item or item.type == 'image' %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif 'text' in item %}{{- item.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' }}{{- content_of(messages[0].content) }}{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role != 'system' %}
        {{- '<|im_start|>' + message.role + '\\n' }}{{- content_of(message.content) }}{{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

CONVERSATIONS = {
    "text": [("user", "How far is it?"), ("assistant", "12 cm")],
    "system": [("system", "Answer in one word."), ("user", "Is it red?"), ("assistant", "Yes")],
    "image": [("user", "<image>\nWhich is nearer, the mug or the bowl?"), ("assistant", "the mug")],
    "images": [
        ("user", "<image><image>Same?"),
        ("assistant", "No"),
        ("user", "<image>Now?"),
        ("assistant", "y"),
    ],
    "inside": [("user", "First <image> then <image> end"), ("assistant", "[500, 200]")],
    "unicode": [("user", "Wie groß? 多大? \n\n  two  spaces\t"), ("assistant", "größer — 3 m\nzwei Zeilen")],
    "lines": [("user", "\n\nstarts with lines\n"), ("assistant", "ends with one\n")],
}


def parts_of(content: str) -> str | list[dict[str, str]]:
    if IMAGE_MARK not in content:
        return content
    parts: list[dict[str, str]] = []
    for index, text in enumerate(content.split(IMAGE_MARK)):
        if index:
            parts.append({"type": "image"})
        if text.strip():
            parts.append({"type": "text", "text": text.strip()})
    return parts


@pytest.fixture(scope="module")
def reference() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_file=str(FOLDER / "tokenizer.json"), chat_template=TEMPLATE)


@pytest.fixture(scope="module")
def ours() -> ChatTokenizer:
    return ChatTokenizer.from_folder(FOLDER)


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("prompt", [False, True])
def test_ids_equal_the_template(reference, ours, name, prompt):
    turns = CONVERSATIONS[name][:-1] if prompt else CONVERSATIONS[name]
    counts = list(range(2, 2 + sum(content.count(IMAGE_MARK) for _, content in turns)))
    expected: list[int] = []
    images = iter(counts)
    for token in reference.apply_chat_template(
        [{"role": role, "content": parts_of(content)} for role, content in turns],
        add_generation_prompt=prompt,
        return_dict=False,
    ):
        expected += [token] * (next(images) if token == ours.image_token_id else 1)
    messages = [Message(role=role, content=content) for role, content in turns]
    found = ours.encode_prompt(messages, counts) if prompt else ours.encode(messages, counts)[0]
    np.testing.assert_array_equal(found, expected)


def test_the_shipped_template_is_the_same_text(reference):
    shipped = (FOLDER / "chat_template.jinja").read_text()
    for turns in CONVERSATIONS.values():
        messages = [{"role": role, "content": parts_of(content)} for role, content in turns]
        for prompt in (False, True):
            texts = [
                reference.apply_chat_template(
                    messages, chat_template=template, tokenize=False, add_generation_prompt=prompt
                )
                for template in (TEMPLATE, shipped)
            ]
            assert texts[0] == texts[1]
