"""Options that stand in the text of a question: the one reading that training sources and benchmarks share."""

import re

_MARK = re.compile(r"(?:^|(?<=[\s,;:]))\(?([A-Z])[.):]\s*(?=\S)")


def inline_options(question: str) -> tuple[str, ...]:
    """The options of a question that ends in "A. left B. right", "(A) left (B) right" or a line for each.

    Returns:
        Their texts without letters, in order; empty where the question has no options.
    """
    marks = list(_MARK.finditer(question))
    starts = [i for i, mark in enumerate(marks) if mark.group(1) == "A"]
    for start in reversed(starts):
        run = [marks[start]]
        for mark in marks[start + 1 :]:
            if ord(mark.group(1)) == ord(run[-1].group(1)) + 1:
                run.append(mark)
        if len(run) < 2:
            continue
        ends = [mark.start() for mark in run[1:]] + [len(question)]
        options = [
            question[mark.end() : end].strip().rstrip(",;") for mark, end in zip(run, ends, strict=True)
        ]
        # What follows the last option on lines of its own is an instruction.
        options[-1] = options[-1].split("\n", 1)[0].strip()
        return tuple(options)
    return ()
