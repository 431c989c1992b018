"""Names of drawings that a text prior has never seen, though it has seen each of their words: "blue heart".

What it draws when it is told one of these shows whether it hears words or knows names by heart.
"""

from collections.abc import Collection

# Every colour and every shape of these stays in other names; so "pink heart" is none, the only pink thing.
WORDS = (
    *("green circle", "brown circle", "blue heart", "orange heart", "red square", "purple square", "green book"),
    *("black medium-small square", "white small square"),
    *("five o’clock", "ten o’clock", "nine-thirty", "man curly hair", "woman white hair"),
)
WHO = ("man", "woman", "person")


def composed(names: Collection[str]) -> frozenset[str]:
    """Those of WORDS, and of each second role that all of WHO have, one of the three: "woman pilot"."""
    every = frozenset(names)
    held = [three[i // 2 % len(WHO)] for i, three in enumerate(_roles(every)) if i % 2 == 0]
    return every & frozenset((*WORDS, *held))


def _roles(names: frozenset[str]) -> list[tuple[str, str, str]]:
    """The three names of each role, sorted by role; a person's may be the role alone: "pilot"."""
    roles = sorted({name.partition(" ")[2] for name in names if name.startswith(WHO[0] + " ")})
    found = []
    for role in roles:
        man, woman, person = (f"{who} {role}" for who in WHO)
        person = person if person in names else role
        if {man, woman, person} <= names and "hair" not in role:
            found.append((man, woman, person))
    return found
