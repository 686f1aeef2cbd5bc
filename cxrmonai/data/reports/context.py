"""NegEx on a blank spaCy pipeline, without a model (Chapman et al., J Biomed Inform 2001, as negspacy has it)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cxrmonai.data.reports.patterns import CONTEXTS, Patterns

_KEY = "mentions"


class ContextPipeline:
    """Says of mentions in a sentence which contexts they stand in.

    One NegEx component per rule of the patterns. In each, the triggers of all other rules are pseudo-triggers, so that
    of triggers that overlap the longest counts, whatever its rule: the "not" in "cannot exclude" negates nothing.

    Args:
        patterns: whose rules and pseudo-triggers are used.
    """

    def __init__(self, patterns: Patterns) -> None:
        import spacy

        self._nlp = spacy.blank("en")
        everything = [(*rule.before, *rule.after) for rule in patterns.rules]
        self._components = []
        for number, rule in enumerate(patterns.rules):
            others = [text for k, texts in enumerate(everything) if k != number for text in texts]
            termset = {
                "pseudo_negations": [*patterns.nothing, *others],
                "preceding_negations": list(rule.before),
                "following_negations": list(rule.after),
                "termination": list(rule.ends),
            }
            self._components.append(
                _negex_class()(
                    self._nlp,
                    f"{rule.context}_{number}",
                    neg_termset=termset,
                    extension_name=_extension(rule.context),
                    span_keys=[_KEY],
                )
            )

    def contexts(self, sentence: str, places: Sequence[tuple[int, int]]) -> list[set[str]]:
        """The contexts of mentions.

        Args:
            sentence: its text; it is not split further.
            places: of the mentions, from character to character.

        Returns:
            For each mention those of `patterns.CONTEXTS` it stands in.
        """
        doc = self._nlp.make_doc(sentence)
        for token in doc:
            token.is_sent_start = token.i == 0
        spans = [doc.char_span(start, end, alignment_mode="expand") for start, end in places]
        doc.spans[_KEY] = spans
        for component in self._components:
            component(doc)
        return [{name for name in CONTEXTS if span._.get(_extension(name))} for span in spans]


def _extension(context: str) -> str:
    return f"cxr_{context}"


def _negex_class() -> type:
    from negspacy.negation import Negex
    from spacy.tokens import Doc
    from spacy.util import filter_spans

    class LongestNegex(Negex):
        """NegEx in which a trigger inside a longer one does not count.

        negspacy counts it unless the longer one is a pseudo-trigger, and lets a pseudo-trigger also cancel a trigger
        that begins right behind it ("no change, no effusion").
        """

        def process_negations(self, doc: Doc) -> tuple[list[Any], list[Any], list[Any]]:
            kinds: dict[tuple[int, int], list[str]] = {}
            for key, start, end in self.matcher(doc):
                kinds.setdefault((start, end), []).append(self.nlp.vocab.strings[key])
            found: dict[str, list[Any]] = {"Preceding": [], "Following": [], "Termination": [], "pseudo": []}
            for span in filter_spans([doc[start:end] for start, end in kinds]):
                for kind in kinds[span.start, span.end]:
                    found[kind].append((kind, span.start, span.end))
            return found["Preceding"], found["Following"], found["Termination"]

    return LongestNegex
