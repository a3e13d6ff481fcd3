"""Conversations: windows, threads, what is sent along, and the reach of a new message."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbed.chunking import Rules, chunk
from flowbed.errors import Rejected
from flowbed.records import Chunk, Document
from flowbed.records.conversations import Conversation, Message

RULES = Rules(source="chat", collections=("chat",))
SMALL = Rules(source="chat", collections=("chat",), capacity=40)
MORNING = 1_767_600_000_000_000  # µs: 5 January 2026, 8:00 UTC
MINUTE = 60_000_000


def count(text: str) -> int:
    """Count roughly as tokenizers do: one token per four characters of a word, and one per sign."""
    return sum(-(-len(part) // 4) for part in re.findall(r"\w+|[^\w\s]", text))


def said(
    minute: float, text: str = "some words about it, enough for a window of three", author: str = "Ann"
) -> Message:
    time = MORNING + int(minute * MINUTE)
    return Message(id=f"m{time}", author=author, time=time, text=text, url=f"https://example.org/{time}")


def made(messages: list[Message], rules: Rules = RULES, thread: str = "") -> list[Chunk]:
    talk = Conversation(channel="#ops", channel_id="C1", messages=tuple(messages), thread=thread)
    return chunk(Document(id="C1/d", kind="conversation", text=talk.to_json()), rules, count)


def minutes(chunks: list[Chunk]) -> list[list[int]]:
    """Return the minutes of the messages of each chunk."""
    return [
        [(int(name[1:]) - MORNING) // MINUTE for name in str(each.metadata["messages"]).split()]
        for each in chunks
    ]


def test_day_silence_of_more_than_twenty_minutes_begins_a_window() -> None:
    found = made([said(each) for each in (0, 5, 10, 31, 40, 60)])
    assert minutes(found) == [[0, 5, 10], [31, 40, 60]]


def test_day_window_of_few_messages_joins_the_nearer_neighbour() -> None:
    found = made([said(each) for each in (0, 1, 2, 60, 90, 91, 92, 300)])
    assert minutes(found) == [[0, 1, 2], [60, 90, 91, 92], [300]]


def test_day_long_talk_is_cut_at_its_longest_silence() -> None:
    found = made([said(each, "yes") for each in [*range(0, 85, 5), 95, *range(100, 180, 5)]])
    assert minutes(found) == [[*range(0, 85, 5)], [95, *range(100, 180, 5)]]


def test_window_metadata_names_the_place() -> None:
    (found,) = made([said(0, "one"), said(1, "two", "Bob"), said(2, "three")])
    assert found.text == "Ann: one\nBob: two\nAnn: three"
    assert found.sent == f"#ops, 5 Jan 2026\n{found.text}"
    assert found.metadata == {
        "source": "chat",
        "document": "C1/d",
        "channel": "#ops",
        "channel_id": "C1",
        "authors": "Ann, Bob",
        "first_ts": MORNING // 1_000_000,
        "last_ts": MORNING // 1_000_000 + 120,
        "messages": " ".join(said(minute).id for minute in (0, 1, 2)),
        "url": said(0).url,
    }
    assert found.id == f"chat#C1/d#{said(0).id}"


def test_window_beyond_the_capacity_sends_the_message_before_it() -> None:
    messages = [said(each, f"answer {each} of a long talk") for each in range(12)]
    found = made(messages, replace(SMALL, capacity=60))
    repeated = 0
    for before, after in pairwise(found):
        last = before.text.splitlines()[-1]
        overlap = f"#ops, 5 Jan 2026\n{last}\n{after.text}"
        assert last not in after.text
        assert after.sent == (overlap if count(overlap) <= 60 else f"#ops, 5 Jan 2026\n{after.text}")
        repeated += after.sent == overlap
    assert repeated


def test_thread_that_fits_is_one_chunk_however_long_it_took() -> None:
    (found,) = made([said(0, "why?"), said(600, "because"), said(9000, "thanks")], thread=said(0).id)
    assert found.text == "Ann: why?\nAnn: because\nAnn: thanks"
    assert found.metadata["thread"] == said(0).id


def test_thread_later_pieces_repeat_the_question() -> None:
    messages = [
        said(0, "why does it hang?"),
        *(said(each, f"reason {each} of many") for each in range(1, 12)),
    ]
    first, *rest = made(messages, SMALL, thread=said(0).id)
    assert rest
    assert first.sent.count("why does it hang?") == 1
    for each in rest:
        assert each.sent.startswith("#ops, 5 Jan 2026\nAnn: why does it hang?\nAnn: reason")
        assert "why" not in each.text


def test_long_message_names_its_author_in_every_piece_and_no_piece_twice() -> None:
    found = made([said(0, "A sentence of some words. " * 60), said(1, "one"), said(2, "two")], SMALL)
    assert len({each.id for each in found}) == len(found) > 3
    assert all("Ann: " in each.sent for each in found)
    assert all(each.metadata["url"] == said(0).url for each in found[:-1])


def test_malformed_text_is_rejected() -> None:
    with pytest.raises(Rejected, match="not a conversation"):
        chunk(Document(id="C1/d", kind="conversation", text='{"messages": [1]}'), RULES, count)


TALKS = st.lists(
    st.tuples(
        st.sampled_from([0.1, 1, 4, 15, 25, 70, 130]),
        st.sampled_from(
            ["yes", "a question about the lock file", "words " * 12, "line\n" * 30, "```\na\nb\n```"]
        ),
        st.sampled_from(["Ann", "Bob", "Cleo"]),
    ),
    min_size=1,
    max_size=40,
)


def talk(steps: list[tuple[float, str, str]]) -> list[Message]:
    messages, minute = [], 0.0
    for number, (gap, text, author) in enumerate(steps):
        minute += gap
        messages.append(said(minute, f"{text} {number}", author))
    return messages


@given(steps=TALKS, capacity=st.sampled_from([16, 40, 254]), in_thread=st.booleans())
def test_chunks_hold_every_message_in_order_and_fit(
    steps: list[tuple[float, str, str]], capacity: int, in_thread: bool
) -> None:
    """Nothing is lost or repeated, nothing exceeds the window, and ids are unique."""
    messages = talk(steps)
    found = made(messages, replace(RULES, capacity=capacity), messages[0].id if in_thread else "")
    whole = "".join(f"{each.author}: {each.text}" for each in messages)
    assert re.sub(r"\s", "", "".join(each.text for each in found)) == re.sub(r"\s", "", whole)
    assert all(count(each.sent) == each.tokens <= capacity for each in found)
    assert len({each.id for each in found}) == len(found)
    assert [each.ordinal for each in found] == list(range(len(found)))
    named = [name for each in found for name in str(each.metadata["messages"]).split()]
    assert list(dict.fromkeys(named)) == [each.id for each in messages]


@given(steps=TALKS, place=st.integers(0, 40), text=st.sampled_from(["yes", "words " * 12]))
def test_new_message_changes_only_windows_near_it(
    steps: list[tuple[float, str, str]], place: int, text: str
) -> None:
    """A message changes what is sent of windows within reach: its own, those beside it, and the one after those."""
    steps = [(max(gap, 1), words, author) for gap, words, author in steps] * 4
    messages = talk(steps)
    place = min(place * 4, len(messages) - 1)
    new = said((messages[place].time - MORNING) / MINUTE + 0.5, f"{text} new", "Dora")
    before = made(messages)
    after = made([*messages[: place + 1], new, *messages[place + 1 :]])
    old = {each.sent for each in before}
    changed = [each for each in after if each.sent not in old]
    assert any(new.id in str(each.metadata["messages"]) for each in changed)
    # A window reaches at most two hours, and so does the silence that it may drop on either side.
    for each in changed:
        assert int(each.metadata["last_ts"]) >= new.time // 1_000_000 - 4 * 3_600
        assert int(each.metadata["first_ts"]) <= new.time // 1_000_000 + 4 * 3_600


def test_new_message_in_a_busy_day_re_embeds_few_windows() -> None:
    """Counted over every place of a day of 300 messages: 1.x windows on average, never more than five."""
    messages = [
        said(each * 4.1, f"message {each} about subject {each % 7} and what follows") for each in range(300)
    ]
    old = {each.sent for each in made(messages)}
    counts = []
    for place in range(0, 300, 10):
        new = said(place * 4.1 + 1, "one more thing", "Dora")
        after = made([*messages[: place + 1], new, *messages[place + 1 :]])
        counts.append(sum(each.sent not in old for each in after))
    assert max(counts) <= 5
    assert sum(counts) / len(counts) < 2.5


def test_reply_is_sent_with_what_it_answers_unless_the_chunk_has_it() -> None:
    asked = said(0, "how long is a backup kept?")
    near = replace(said(1), answers=asked.id, quote="Ann: how long is a backup kept?")
    far = replace(near, id="m9", time=near.time + 300 * MINUTE)
    with_it, without = made([asked, near, said(2), far, said(302), said(303)])
    assert ">" not in with_it.sent
    assert without.sent == f"#ops, 5 Jan 2026\n> Ann: how long is a backup kept?\n{without.text}"


def test_title_of_a_thread_is_sent_with_each_piece_and_stands_in_the_metadata() -> None:
    talk = Conversation(
        channel="#ops", channel_id="C1", messages=tuple(said(n, "words " * 30) for n in range(9)), thread="m"
    )
    document = Document(id="C1/t/m", kind="conversation", text=talk.to_json(), title="Restore  a backup")
    found = chunk(document, RULES, count)
    assert len(found) > 1
    for each in found:
        assert each.sent.startswith("#ops, 5 Jan 2026\nRestore a backup\n")
        assert each.metadata["title"] == "Restore a backup"
        assert "Restore" not in each.text
        assert count(each.sent) <= RULES.capacity
