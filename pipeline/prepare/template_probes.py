"""The probe conversations of a template's fingerprint, chosen to cover what chat templates can render.

Every conversation is rendered with every element of `VARIABLES`, with and without the generation prompt. Some are
deliberately invalid for some templates: which ones a template rejects is part of its fingerprint. Any change here
changes every fingerprint, including those in conf/.
"""

from __future__ import annotations

from typing import Any

Message = dict[str, Any]
"""A message as `apply_chat_template` takes it: role, content, and further keys of the role."""


def _message(role: str, content: Any, **more: Any) -> Message:
    return {"role": role, "content": content, **more}


def _call(name: str, arguments: Any) -> Message:
    return {"id": "call00001", "type": "function", "function": {"name": name, "arguments": arguments}}


def _text(text: str) -> Message:
    return {"type": "text", "text": text}


_SYSTEM = _message("system", "Отвечай коротко и по делу.")
_QUESTION = _message("user", "Когда сеют озимую рожь?\nA. в августе\nB. в марте")
_ANSWER = _message("assistant", "A")
_FOLLOW_UP = _message("user", "А яровую?")
_CALLS = [
    _call("weather", {"place": "Орёл", "days": 3, "units": {"rain": "mm"}, "nights": True, "note": None}),
    _call("calendar", {}),
]

CONVERSATIONS: tuple[list[Message], ...] = (
    [_QUESTION],
    [_SYSTEM, _QUESTION],
    [
        _SYSTEM,
        _QUESTION,
        _ANSWER,
        _FOLLOW_UP,
        _message("assistant", "В апреле, <b>когда</b> 'почва' & \"воздух\" прогреты."),
    ],
    [_QUESTION, _ANSWER, _FOLLOW_UP],
    # Leading and trailing white space, and nothing but white space.
    [
        _message("system", " \n тихо \t"),
        _message("user", "\n\n вопрос \n"),
        _message("assistant", "  ответ \n\n"),
        _FOLLOW_UP,
    ],
    [_message("system", ""), _message("user", ""), _message("assistant", ""), _message("user", " \n")],
    [_QUESTION, _message("assistant", None)],
    # Reasoning in the history under each key in use, before the last question and after it.
    *(
        [
            _QUESTION,
            _message("assistant", "A", **{name: "\nрожь озимая\n"}),
            _FOLLOW_UP,
            _message("assistant", "B", **{name: "?"}),
        ]
        for name in ("reasoning_content", "reasoning", "thinking")
    ),
    [
        _QUESTION,
        _message("assistant", "<think>\nозимая, осень\n</think>\n\nA"),
        _FOLLOW_UP,
        _message("assistant", "<think>\n\n</think>\n\nB"),
    ],
    [_QUESTION, _message("assistant", "озимая, осень\n</think>\n\nA"), _FOLLOW_UP],
    [_QUESTION, _message("assistant", "<think>не закрыто"), _FOLLOW_UP],
    # Tool calls and results, one and several, with and without text before them.
    [
        _QUESTION,
        _message("assistant", "", tool_calls=_CALLS),
        _message("tool", "дождь", name="weather", tool_call_id="call00001"),
        _message("tool", "суббота", name="calendar", tool_call_id="call00001"),
        _ANSWER,
        _FOLLOW_UP,
    ],
    [
        _SYSTEM,
        _QUESTION,
        _message("assistant", "Посмотрю.", tool_calls=_CALLS[:1], reasoning_content="нужна погода"),
        _message("tool", [_text("сухо"), _text("тепло")], name="weather", tool_call_id="call00001"),
    ],
    [_QUESTION, _message("assistant", None, tool_calls=[{"name": "weather", "arguments": {"place": "Орёл"}}])],
    [_QUESTION, _message("assistant", "", tool_calls=[_call("weather", '{"place": "Орёл"}')])],
    [
        _QUESTION,
        _message("assistant", "", tool_calls=[{"type": "function", "function": {"name": "calendar"}}]),
        _FOLLOW_UP,
    ],
    [
        _message("user", "<tool_response>\nдождь\n</tool_response>"),
        _QUESTION,
        _message("tool", "1"),
        _message("tool", "2"),
    ],
    [
        _QUESTION,
        _message("assistant", "", reasoning_content="нужна погода", tool_calls=_CALLS[:1]),
        _message("user", "<tool_response>\nдождь\n</tool_response>"),
        _message("assistant", "A", reasoning_content="дождь: рожь"),
    ],
    [_message("user", "<tool_response>\nдождь\n</tool_response>")],
    # Content as a list of parts.
    [
        _message("system", [_text("Отвечай "), _text("буквой.")]),
        _message("user", [_text(" Что это? "), _text("\nA. рожь")]),
        _message("assistant", [_text("A")]),
        _message("user", []),
    ],
    [_message("user", [{"type": "image"}, {"type": "image_url", "image_url": {"url": "x"}}, _text("Что это?")])],
    [_message("user", [{"type": "video"}, _text("Что это?"), {"type": "video", "video": "x"}])],
    [_message("user", [_text("Что это?"), {"type": "audio"}])],
    [_message("system", [{"type": "image"}]), _QUESTION],
    [_message("user", {"text": "не список и не текст"})],
    # Orders and roles that a template may reject.
    [_SYSTEM],
    [_QUESTION, _SYSTEM, _FOLLOW_UP],
    [_ANSWER, _QUESTION],
    [_QUESTION, _FOLLOW_UP],
    [_message("developer", "Отвечай буквой."), _QUESTION],
    [_message("critic", "Неверно."), _QUESTION],
    # Text that looks like a template's own markup.
    [_message("user", "<|im_end|>\n<|im_start|>assistant\n</s><eos>[/INST] {{ x }} {% y %}"), _ANSWER],
)

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Погода на несколько дней.",
            "parameters": {
                "type": "object",
                "properties": {
                    "place": {"type": "string", "description": "Где?"},
                    "days": {"type": "integer", "enum": [1, 3]},
                },
                "required": ["place"],
            },
        },
    },
    {"type": "function", "function": {"name": "calendar", "description": "", "parameters": {}}},
]

VARIABLES: tuple[dict[str, Any], ...] = (
    {},
    {"tools": TOOLS},
    {"enable_thinking": True},
    {"enable_thinking": False},
    {"thinking": True},
    {"thinking": False},
    {"preserve_thinking": True},
    {"reasoning_effort": "high"},
    {"thinking_budget": 512},
    {"add_vision_id": True},
)
"""Variables that chat templates in use read; one that a template does not read changes nothing."""
