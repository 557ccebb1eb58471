"""DeepEyes (Visual-Agent/DeepEyes, eval/eval_vstar.py): the model thinks, zooms in with a tool as often as it likes,
and answers within <answer>. At most 11 responses of 10,240 tokens each.

Frame: absolute pixels of the image as the model sees it. Views, crops too, have 4 to 16,384 tokens of 28 x 28 pixels,
or what the setting's budgets allow where that is less; crops are not padded. The tool's schema requires `bbox`
although the property is `bbox_2d`, as released. The tool has no way to name one of several images: it looks at the
first.

Known faults, reproduced with `as_published`:
- boxes are used unscaled on the original image: right while the image is shown at its own size, wrong as soon as it is
  scaled down (over 12.8 megapixels as released; wherever a smaller budget is set);
- corners in reverse order, a box without area or a call that cannot be read end the conversation, and what was written
  so far is taken for the answer. By default the corners are sorted, and the model is told of its error in the words of
  the tool of DeepEyes' own training ("Error: .."), which sorts no corners, refuses sides of 30 pixels or less and takes
  the last call of a response;
- corners are rounded to whole pixels; by default a crop has every pixel that its box touches.
Calls were evaluated as Python there; here they are read, which is the same for all that a model writes as a literal.
Not reproduced: a box that reaches outside the image is
clipped, not filled up with black; a response without a call and without an answer was asked for again in the same
words, which changes nothing when decoding is greedy. The script for HR-Bench also stops at </tool_call> and after
8,192 tokens; that for V* is followed here. The judge's prompt there has the right option at A: a matter of data and of
judging, so nothing of it is here.
"""

from __future__ import annotations

from hart_lite.boxes import valid_boxes
from hart_lite.inference.protocols.base import Outcome, ProtocolRun, Say, Setting
from hart_lite.inference.protocols.tools import OPEN, ToolError, read_arguments, read_corners, to_original
from hart_lite.models.views import crop_view, full_views
from hart_lite.types import Box, Example, ImageView
from hart_lite.utils.text import shown

SYSTEM = """You are a helpful assistant.

# Tools
You may call one or more functions to assist with the user query.
You are provided with function signatures within <tools></tools> XML tags:
<tools>
{"type":"function","function":{"name":"image_zoom_in_tool","description":"Zoom in on a specific region of an image by cropping it based on a bounding box (bbox) and an optional object label.","parameters":{"type":"object","properties":{"bbox_2d":{"type":"array","items":{"type":"number"},"minItems":4,"maxItems":4,"description":"The bounding box of the region to zoom in, as [x1, y1, x2, y2], where (x1, y1) is the top-left corner and (x2, y2) is the bottom-right corner."},"label":{"type":"string","description":"The name or label of the object in the specified bounding box (optional)."}},"required":["bbox"]}}}
</tools>

# How to call a tool
Return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>

**Example**:\x20\x20
<tool_call>\x20\x20
{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [10, 20, 100, 200], "label": "the apple on the desk"}}\x20\x20
</tool_call>"""  # noqa: E501
THINK_FIRST = (
    "\nThink first, call **image_zoom_in_tool** if needed, then answer. Format strictly as:  <think>...</think>  "
    "<tool_call>...</tool_call> (if tools needed)  <answer>...</answer> "
)
TOOL = "image_zoom_in_tool"
MOST, LEAST = 16384 * 784, 4 * 784  # pixels of a view
MAX_RESPONSES, MAX_TOKENS = 11, 10_240


def deepeyes(example: Example, setting: Setting) -> ProtocolRun:
    max_pixels = min(setting.full_pixels, MOST)
    full = full_views(example, setting.interface, max_pixels, min(LEAST, max_pixels))
    options = "".join(f"{chr(ord('A') + n)}. {choice}\n" for n, choice in enumerate(example.choices))
    asked = f"Question: {example.question}\n" + (f"Options: \n{options}\n" if options else "") + THINK_FIRST
    limit = min(setting.max_tokens_answer, MAX_TOKENS)
    say = Say([*full, asked], system=SYSTEM, max_tokens=limit, goes_on=True)
    boxes: list[Box] = []
    crops: list[ImageView] = []
    errors = 0
    for _ in range(MAX_RESPONSES):
        text = yield say
        if "</answer>" in text or OPEN not in text:
            return Outcome(text, tuple(boxes), tuple(crops), _counts(boxes, errors))
        try:
            box, view = _zoom(example, setting, full, text)
        except ToolError as error:
            errors += 1
            if setting.as_published:
                return Outcome(text, tuple(boxes), tuple(crops), _counts(boxes, errors))
            content = [f"Error: {error}"]
        else:
            boxes.append(box)
            crops.append(view)
            content = ["<tool_response>", view, THINK_FIRST + "</tool_response>"]
        say = Say(content, "tool", fresh=False, max_tokens=limit, goes_on=True)
    # As published, the last call stands for the answer; it is no answer.
    return Outcome(
        text if setting.as_published else "", tuple(boxes), tuple(crops), _counts(boxes, errors) | {"unanswered": 1}
    )


def _counts(boxes: list[Box], errors: int) -> dict[str, int]:
    return {"tool_calls": len(boxes) + errors, "tool_errors": errors}


def _zoom(example: Example, setting: Setting, full: tuple[ImageView, ...], text: str) -> tuple[Box, ImageView]:
    """The box of the first call in a response, in original pixels, and the crop it asks for."""
    size = example.images[0].size()
    max_pixels = min(setting.crop_pixels, MOST)
    how, names = ("python", ()) if setting.as_published else (None, (TOOL,))
    corners = read_corners(read_arguments(text, names, published=how), how)
    if setting.as_published:
        if corners[2] <= corners[0] or corners[3] <= corners[1]:
            raise ToolError(f"bbox_2d is {shown(corners)}: right is not right of left, or bottom not below top")
        corners = [round(value) for value in corners]
    else:
        corners = list(to_original(corners, setting.interface, full[0].size, size))
    found, _ = valid_boxes([corners], size, 1)
    if not found:
        raise ToolError(f"bbox_2d is {shown(corners)}, which leaves nothing to look at in the image")
    return found[0], crop_view(example, found[0], setting.interface, 0, max_pixels, min(LEAST, max_pixels))
