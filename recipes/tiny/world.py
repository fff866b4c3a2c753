"""A small made-up world: the text that the tiny checkpoint is trained, calibrated and examined on.

Everything comes from one seeded generator, so every question has a true answer and nothing is
copied from anybody. Three kinds of knowledge: facts about people (memory), sums of two-digit
numbers (arithmetic), verb forms (grammar). Held-out means: the question form of a held-out fact, a
held-out sum, a held-out sentence never occurs in training text; the facts themselves do, as
statements, or nobody could know them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

PEOPLE = 1800
SEED = 2026
CHOICES = 5

_ONSETS = [
    "b",
    "br",
    "d",
    "dr",
    "f",
    "g",
    "gl",
    "h",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "z",
]
_VOWELS = ["a", "e", "i", "o", "u", "ai", "ea"]
_CODAS = ["l", "n", "r", "s", "th", "k", "m", "nd"]

TRADES = (
    "baker potter weaver miller smith tailor farmer sailor painter singer teacher doctor mason"
    " carver fisher hunter brewer cooper glazier tanner printer porter grocer barber cobbler dyer"
    " juggler piper scribe shepherd thatcher wheelwright"
).split()
PETS = (
    "cat dog goat hen duck goose pony mule crow owl frog toad newt hare rat mouse finch robin"
    " lizard turtle ferret beetle snail spider parrot pigeon otter badger hedgehog squirrel fox"
    " lamb"
).split()
COLOURS = (
    "red blue green yellow purple orange brown black white grey pink teal violet crimson amber"
    " ivory scarlet indigo olive maroon silver golden copper bronze"
).split()
DISHES = (
    "soup stew bread cheese rice noodles beans lentils cabbage turnips carrots apples pears plums"
    " cherries walnuts honey porridge pancakes dumplings pie cake pudding custard trout herring"
    " mussels mushrooms onions peas eggs butter"
).split()
TOOLS = (
    "hammer saw chisel spade rake hoe axe needle loom kettle ladder wagon lantern compass rope"
    " bucket barrel anvil bellows sickle scythe plough shears trowel mallet pliers broom basket"
    " ladle whistle drum fiddle"
).split()

NOUNS = [
    "farmer",
    "sailor",
    "child",
    "teacher",
    "horse",
    "neighbour",
    "soldier",
    "singer",
    "wolf",
    "traveller",
]
PLURALS = {"child": "children", "wolf": "wolves"}
PLACES = [
    "bridge",
    "river",
    "market",
    "tower",
    "forest",
    "harbour",
    "mill",
    "gate",
    "well",
    "garden",
]
VERBS = [  # base, third person, -ing, past
    ("walk", "walks", "walking", "walked"),
    ("run", "runs", "running", "ran"),
    ("sing", "sings", "singing", "sang"),
    ("sleep", "sleeps", "sleeping", "slept"),
    ("go", "goes", "going", "went"),
    ("eat", "eats", "eating", "ate"),
    ("dance", "dances", "dancing", "danced"),
    ("swim", "swims", "swimming", "swam"),
    ("wait", "waits", "waiting", "waited"),
    ("speak", "speaks", "speaking", "spoke"),
]


@dataclass(frozen=True)
class Attribute:
    """One kind of fact: how it is stated (several ways) and how it is asked for (one way)."""

    values: list[str]
    statements: tuple[str, ...]
    question: str


@dataclass(frozen=True)
class Item:
    """A multiple-choice item: `choices[gold]` is the true answer to `query`; `about` is what
    related items share."""

    query: str
    choices: list[str]
    gold: int
    about: str = ""


class World:
    """All people and their facts, drawn once from the seed."""

    def __init__(self, seed: int = SEED, people: int = PEOPLE) -> None:
        rng = random.Random(seed)
        words = sorted({o + v + c for o in _ONSETS for v in _VOWELS for c in _CODAS})
        rng.shuffle(words)
        first, last = [w.capitalize() for w in words[:80]], [w.capitalize() for w in words[80:200]]
        towns = [w.capitalize() + "ton" for w in words[200:232]]
        pairs = [f"{a} {b}" for a in first for b in last]
        self.people = rng.sample(pairs, people)
        self.attributes = _attributes(towns)
        self.facts = {
            p: {k: rng.choice(a.values) for k, a in self.attributes.items()} for p in self.people
        }
        keys = [(p, k) for p in self.people for k in self.attributes]
        self.held_out_facts = set(rng.sample(keys, len(keys) // 5))
        sums = [(a, b) for a in range(10, 100) for b in range(10, 100)]
        self.held_out_sums = set(rng.sample(sums, len(sums) // 8))
        sentences = list(_sentences())
        self.held_out_sentences = set(rng.sample(sentences, len(sentences) // 4))

    def statement(self, rng: random.Random, person: str, key: str) -> str:
        template = rng.choice(self.attributes[key].statements)
        return template.format(person=person, value=self.facts[person][key])

    def biography(self, rng: random.Random, person: str) -> str:
        """Every fact about one person, in random order and wording."""
        keys = rng.sample(list(self.attributes), len(self.attributes))
        return " ".join(self.statement(rng, person, k) for k in keys)

    def documents(self, rng: random.Random) -> Iterator[str]:
        """An endless stream of training documents; it never holds a held-out question, sum or
        sentence."""
        askable = [
            (p, k)
            for p in self.people
            for k in self.attributes
            if (p, k) not in self.held_out_facts
        ]
        sums = [
            (a, b)
            for a in range(10, 100)
            for b in range(10, 100)
            if (a, b) not in self.held_out_sums
        ]
        sentences = [s for s in _sentences() if s not in self.held_out_sentences]
        while True:
            kind = rng.random()
            if kind < 0.45:
                yield self.biography(rng, rng.choice(self.people))
            elif kind < 0.70:
                person, key = rng.choice(askable)
                question = self.attributes[key].question.format(person=person)
                yield dialogue(question, self.facts[person][key] + ".")
            elif kind < 0.92:
                a, b = rng.choice(sums)
                yield dialogue(sum_question(a, b), f"{a + b}.")
            else:
                context, forms, gold = sentence(*rng.choice(sentences))
                yield f"{context} {forms[gold]}."

    def held_out_text(self, seed: int, documents: int) -> list[str]:
        """Fresh biographies, held-out sums and held-out sentences: the perplexity text."""
        rng = random.Random(seed)
        sums, sentences = sorted(self.held_out_sums), sorted(self.held_out_sentences)
        texts = []
        for _ in range(documents):
            texts.append(self.biography(rng, rng.choice(self.people)))
            a, b = rng.choice(sums)
            texts.append(dialogue(sum_question(a, b), f"{a + b}."))
            context, forms, gold = sentence(*rng.choice(sentences))
            texts.append(f"{context} {forms[gold]}.")
        return texts

    def fact_items(self, seed: int, count: int) -> list[Item]:
        rng = random.Random(seed)
        items = []
        for person, key in rng.sample(sorted(self.held_out_facts), count):
            attribute, truth = self.attributes[key], self.facts[person][key]
            others = rng.sample([v for v in attribute.values if v != truth], CHOICES - 1)
            items.append(
                _item(rng, attribute.question.format(person=person), truth, others, person)
            )
        return items

    def sum_items(self, seed: int, count: int) -> list[Item]:
        rng = random.Random(seed)
        items = []
        for a, b in rng.sample(sorted(self.held_out_sums), count):
            near = [a + b + d for d in (-20, -11, -10, -9, -2, -1, 1, 2, 9, 10, 11, 20)]
            others = [str(n) for n in rng.sample(near, CHOICES - 1)]
            items.append(_item(rng, sum_question(a, b), str(a + b), others))
        return items

    def sentence_items(self, seed: int, count: int) -> list[Item]:
        rng = random.Random(seed)
        items = []
        for parts in rng.sample(sorted(self.held_out_sentences), count):
            context, forms, gold = sentence(*parts)
            items.append(Item(context, [f" {form}." for form in forms], gold))
        return items


def dialogue(question: str, answer: str) -> str:
    """A question with its answer, laid out as the checkpoint's chat template lays it out."""
    return f"Question: {question}\nAnswer: {answer}"


def sum_question(a: int, b: int) -> str:
    return f"What is {a} plus {b}?"


def sentence(tense: str, noun: str, place: str, verb: int) -> tuple[str, tuple[str, ...], int]:
    """A context whose next word is one of a verb's four forms; returns (context, forms, index of
    the right one)."""
    plural = PLURALS.get(noun, noun + "s")
    context, gold = {
        "one": (f"Every day the {noun} near the {place}s", 1),
        "many": (f"Every day the {plural} near the {place}", 0),
        "past": (f"Yesterday the {plural} near the {place}", 3),
        "now": (f"Right now the {noun} near the {place}s is", 2),
    }[tense]
    return context, VERBS[verb], gold


def _sentences() -> Iterator[tuple[str, str, str, int]]:
    for tense in ("one", "many", "past", "now"):
        for noun in NOUNS:
            for place in PLACES:
                for verb in range(len(VERBS)):
                    yield tense, noun, place, verb


def _item(
    rng: random.Random, question: str, truth: str, others: list[str], about: str = ""
) -> Item:
    gold = rng.randrange(len(others) + 1)
    answers = [*others[:gold], truth, *others[gold:]]
    return Item(f"Question: {question}\nAnswer:", [f" {a}." for a in answers], gold, about)


def _attributes(towns: list[str]) -> dict[str, Attribute]:
    return {
        "town": Attribute(
            towns,
            (
                "{person} lives in {value}.",
                "The home of {person} is in {value}.",
                "You can find {person} in {value}.",
            ),
            "Where does {person} live?",
        ),
        "trade": Attribute(
            TRADES,
            (
                "{person} is a {value}.",
                "{person} works as a {value}.",
                "The trade of {person} is that of a {value}.",
            ),
            "What is the trade of {person}?",
        ),
        "pet": Attribute(
            PETS,
            (
                "{person} keeps a {value}.",
                "The pet of {person} is a {value}.",
                "{person} owns a {value}.",
            ),
            "Which animal does {person} keep?",
        ),
        "colour": Attribute(
            COLOURS,
            (
                "{person} likes {value}.",
                "The favourite colour of {person} is {value}.",
                "{person} wears {value}.",
            ),
            "Which colour does {person} like?",
        ),
        "dish": Attribute(
            DISHES,
            (
                "{person} eats {value}.",
                "The favourite dish of {person} is {value}.",
                "{person} often cooks {value}.",
            ),
            "What does {person} eat?",
        ),
        "tool": Attribute(
            TOOLS,
            (
                "{person} carries a {value}.",
                "The tool of {person} is a {value}.",
                "{person} never leaves the {value}.",
            ),
            "What does {person} carry?",
        ),
    }
