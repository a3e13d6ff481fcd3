"""What the dead letters of every ledger must do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.testing.ledger.rows import flat, letter

if TYPE_CHECKING:
    from flowbed.ledger import Ledger


class DeadLettersContract:
    """Tests of `DeadLetters`."""

    async def test_add_again_adds_attempts(self, ledger: Ledger) -> None:
        """A letter of the same kind, owner and subject replaces the previous one and adds to its attempts."""
        await ledger.dead_letters.add([letter(), letter("other", at=2)])
        await ledger.dead_letters.add([letter(reason="still too long", at=3)])
        await ledger.dead_letters.add([])
        assert await flat(ledger.dead_letters.pages()) == [
            letter("other", at=2),
            letter(reason="still too long", at=3, attempts=2),
        ]
        assert await ledger.dead_letters.count() == 2

    async def test_pages_lists_more_than_a_page(self, ledger: Ledger) -> None:
        """Thousands of letters, many with the same time, are listed once each, oldest first."""
        letters = [letter(f"i{number:05d}", at=number // 700) for number in range(2_100)]
        await ledger.dead_letters.add(letters[::-1])
        assert await flat(ledger.dead_letters.pages()) == letters

    async def test_remove_by_kind_owner_and_subject(self, ledger: Ledger) -> None:
        """Letters are removed by kind, and optionally by owner and subject."""
        letters = [
            letter("i1"),
            letter("i2"),
            letter("i1", owner="k"),
            letter("i3", owner="k"),
            letter("i1", kind="run"),
        ]
        await ledger.dead_letters.add(letters)
        assert await ledger.dead_letters.remove("chunk", owner="c", subjects=["i1", "i9"]) == 1
        assert await ledger.dead_letters.remove("chunk", subjects=["i1"]) == 1
        assert await ledger.dead_letters.remove("source") == 0
        assert await ledger.dead_letters.remove("chunk", owner="k") == 1
        assert {row.subject for row in await flat(ledger.dead_letters.pages())} == {"i1", "i2"}
        assert await ledger.dead_letters.remove("chunk") == 1
        assert await ledger.dead_letters.count() == 1

    async def test_unstorable_subject_is_escaped_and_found(self, ledger: Ledger) -> None:
        """A subject that ledgers cannot store is escaped, and the letter is found by either spelling."""
        odd = letter("a\0b", reason="its id holds \0")
        await ledger.dead_letters.add([odd, odd])
        (kept,) = await flat(ledger.dead_letters.pages())
        assert kept == letter("a\\u0000b", reason="its id holds \\u0000", attempts=2)
        assert await ledger.dead_letters.remove("chunk", subjects=["a\0b"]) == 1
