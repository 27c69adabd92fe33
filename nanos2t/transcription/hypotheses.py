"""What happens to the tokens of a hypothesis before they become text."""

MIN_ROUNDS = 4  # a loop repeats something at least so often
MIN_LOOP_TOKENS = 16  # and has at least so many tokens: nobody speaks like that, but models do


def trim_after_eos(tokens: list[int], eos_ids: list[int]) -> list[int]:
    """Cut tokens (T,), start token first, after the first EOS: what follows is padding.

    The start token may have the same id as EOS and does not count.
    """
    for place in range(1, len(tokens)):
        if tokens[place] in eos_ids:
            return tokens[: place + 1]
    return tokens


def cut_loop(tokens: list[int], eos_ids: list[int]) -> tuple[list[int], int]:
    """Remove the repetitions of a loop at the end of tokens (T,), start token first.

    A loop that only the length limit ended has MIN_ROUNDS rounds and MIN_LOOP_TOKENS tokens; one
    that the model ended by EOS has twice as many.

    Returns the tokens with one round of the loop, and how many rounds were removed: 0 if there is
    no loop.
    """
    # An EOS at the end is not part of the loop.
    end = len(tokens)
    required = 1
    if tokens[-1] in eos_ids:
        end -= 1
        required = 2

    for period in range(1, end // MIN_ROUNDS):
        # Go back as long as each token equals the one a period later. The start token stays.
        start = end - period
        while start > 1 and tokens[start - 1] == tokens[start - 1 + period]:
            start -= 1

        loop_tokens = end - start
        if loop_tokens >= required * max(MIN_LOOP_TOKENS, MIN_ROUNDS * period):
            return tokens[: start + period], loop_tokens // period - 1
    return tokens, 0
