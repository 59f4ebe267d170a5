"""Messages as OpenAI's clients send them, into messages that a model's template can show.

Nothing is left out: what a template does not show (a system message, tools, calls, results) is
said in a message that it does show.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, cast

from llmedge.chat_format.forms import Call, write_calls
from llmedge.chat_format.schemas import JsonObject, as_list, as_object, type_of_text
from llmedge.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmedge.chat_format.detect import ChatFormat
    from llmedge.chat_format.template_traits import Message, TemplateTraits
    from llmedge.chat_format.tools import Tool

_ROLES = ("system", "developer", "user", "assistant", "tool")
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


def normalise(
    messages: Sequence[JsonObject],
    tools: Sequence[Tool],
    chat_format: ChatFormat,
    traits: TemplateTraits,
) -> list[Message]:
    """Return messages for the template.

    Args:
        messages: The client's.
        tools: Those that are offered.
        chat_format: What the model writes.
        traits: What its template shows.

    Raises:
        UsageError: A message is malformed, or holds what is no text.
    """
    if not messages:
        raise UsageError("there are no messages")
    known = [_message(place, message) for place, message in enumerate(messages)]
    known = _with_ids(known, traits)
    if tools and not traits.has_tools:
        known.insert(0, {"role": "system", "content": describe_tools(tools, chat_format)})
    if not traits.has_parallel_calls:
        known = _one_call_each(known)
    known = [shown for message in known for shown in _shown(message, chat_format, traits)]
    known = _with_one_system(known, traits)
    return known if traits.can_repeat else _merged(known)


def describe_tools(tools: Sequence[Tool], chat_format: ChatFormat) -> str:
    """Say in words which tools there are and how to call them, for templates that do not."""
    listed = "\n".join(json.dumps(tool.to_json(), ensure_ascii=False) for tool in tools)
    example = write_calls(chat_format.family, [Call("NAME", {"ARGUMENT": "VALUE"})])
    return (
        f"You can call these functions:\n{listed}\n\n"
        f"To call one, answer with nothing but this, filled in:\n{example}"
    )


def _message(place: int, message: JsonObject) -> Message:
    role = message.get("role")
    if role not in _ROLES:
        raise UsageError(
            f"messages[{place}] has the role {str(role)[:80]!r}", f"use one of {', '.join(_ROLES)}"
        )
    known = {key: value for key, value in message.items() if value is not None}
    known["role"] = "system" if role == "developer" else role
    known["content"] = _text(place, message.get("content"))
    if "tool_calls" in known:
        calls = as_list(known.pop("tool_calls"))
        if calls:
            known["tool_calls"] = [_call(place, as_object(call)) for call in calls]
    if not known["content"] and role == "user" and message.get("content") is None:
        raise UsageError(f"messages[{place}] has no content")
    return known


def _text(place: int, content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise UsageError(f"the content of messages[{place}] is neither text nor a list of parts")
    texts: list[str] = []
    for part in as_list(cast("object", content)):
        kind = as_object(part).get("type")
        text = as_object(part).get(_TEXT_PARTS.get(str(kind), ""))
        if not isinstance(text, str):
            raise UsageError(
                f"messages[{place}] has a part of type {str(kind)[:80]!r}",
                "this model reads text; send parts of type 'text'",
            )
        texts.append(text)
    return "\n".join(texts)


def _call(place: int, call: JsonObject) -> Message:
    function = as_object(call.get("function"))
    name, given = function.get("name"), function.get("arguments")
    if not isinstance(name, str):
        raise UsageError(f"a call in messages[{place}] has no name")
    if isinstance(given, str) and type_of_text(given) == "object":
        given = json.loads(given)
    if given and not isinstance(given, dict):
        raise UsageError(
            f"the arguments of the call of {name[:80]} in messages[{place}] are no JSON object: "
            f"{str(given)[:80]!r}"
        )
    called = {"name": name, "arguments": as_object(cast("object", given))}
    return {"id": call.get("id"), "type": "function", "function": called}


def _with_ids(messages: list[Message], traits: TemplateTraits) -> list[Message]:
    """Give each call an id and each result its call's id and name."""
    names: dict[str, str] = {}
    open_ids: list[str] = []
    for place, message in enumerate(messages):
        for n_before, call in enumerate(_calls_of(message)):
            given = call["id"]
            name = given if isinstance(given, str) and given else f"call-{place}-{n_before}"
            call["id"] = _short(name) if traits.wants_short_ids else name
            names[name] = str(as_object(call["function"])["name"])
            open_ids.append(name)
        if message["role"] == "tool":
            given = message.get("tool_call_id")
            name = given if isinstance(given, str) else (open_ids[0] if open_ids else "")
            if name in open_ids:
                open_ids.remove(name)
            message["tool_call_id"] = _short(name) if traits.wants_short_ids else name
            message.setdefault("name", names.get(name, ""))
    return messages


def _short(name: str) -> str:
    if len(name) == 9 and name.isascii() and name.isalnum():
        return name
    return hashlib.sha256(name.encode()).hexdigest()[:9]


def _one_call_each(messages: list[Message]) -> list[Message]:
    """Turn a message with several calls into several, each before its result."""
    done: list[Message] = []
    waiting: dict[object, Message] = {}
    for message in messages:
        calls = _calls_of(message)
        if len(calls) > 1:
            parts = [{**message, "tool_calls": [call]} for call in calls]
            for part in parts[1:]:
                part["content"] = ""
            done.append(parts[0])
            waiting = {_calls_of(part)[0]["id"]: part for part in parts[1:]}
            continue
        if message["role"] == "tool":
            call = waiting.pop(message["tool_call_id"], None)
            done += [call] if call else []
        else:
            done += waiting.values()
            waiting = {}
        done.append(message)
    return [*done, *waiting.values()]


def _shown(message: Message, chat_format: ChatFormat, traits: TemplateTraits) -> list[Message]:
    """Return a message in a form that the template shows."""
    calls = _calls_of(message)
    reasoning = message.get("reasoning_content", message.get("reasoning"))
    if reasoning and not (calls and message["content"]):
        message = {**message, "reasoning_content": reasoning, "thinking": reasoning}
    if message["role"] == "tool" and not traits.has_results:
        text = f"<tool_response>\n{message['content']}\n</tool_response>"
        return [{"role": "user", "content": text}]
    if not calls:
        return [message]
    if not traits.has_calls:
        written = write_calls(chat_format.family, [_as_call(call) for call in calls])
        text = f"{message['content']}\n{written}" if message["content"] else written
        return [
            {key: value for key, value in message.items() if key != "tool_calls"}
            | {"content": text}
        ]
    if not traits.wants_objects:
        calls = [_with_text(call) for call in calls]
    content = message["content"] or (None if traits.wants_no_content else "")
    return [{**message, "content": content, "tool_calls": calls}]


def _with_one_system(messages: list[Message], traits: TemplateTraits) -> list[Message]:
    """Put what the system says where the template shows it: first, or with what a user says."""
    n_first = next((n for n, m in enumerate(messages) if m["role"] != "system"), len(messages))
    head, rest = messages[:n_first], messages[n_first:]
    said = [str(message["content"]) for message in head]
    done: list[Message] = []
    is_kept = traits.keeps_system or messages[-1]["role"] != "tool"
    if said and traits.has_system and is_kept:
        done.append({**head[-1], "content": "\n\n".join(said)})
        said = []
    for message in rest:
        if message["role"] == "system" and not traits.has_late_system:
            said.append(str(message["content"]))
        elif message["role"] == "user" and said:
            done.append({**message, "content": "\n\n".join([*said, str(message["content"])])})
            said = []
        else:
            done.append(message)
    return [*done, {"role": "user", "content": "\n\n".join(said)}] if said else done


def _merged(messages: list[Message]) -> list[Message]:
    """Join messages of a user, or of an assistant without calls, that follow each other."""
    done: list[Message] = []
    for message in messages:
        last = done[-1] if done else None
        same = last is not None and last["role"] == message["role"] and message["role"] != "tool"
        if last and same and not _calls_of(last) and not _calls_of(message):
            done[-1] = {**last, "content": f"{last['content']}\n\n{message['content']}"}
        else:
            done.append(message)
    return done


def _calls_of(message: Message) -> list[Message]:
    return cast("list[Message]", as_list(message.get("tool_calls")))


def _as_call(call: Message) -> Call:
    function = as_object(call["function"])
    return Call(str(function["name"]), as_object(function["arguments"]), str(call["id"]))


def _with_text(call: Message) -> Message:
    function = as_object(call["function"])
    text = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": text}}
