"""How well a chat model answers questions with known answers, compared with baselines that need no model.

- nearest question: the answer of the training question that shares most words. It shows how much of the
  task can be solved by looking up.
- retrieval: the first sentence of the documentation that BM25 finds for the question (Robertson & Zaragoza,
  2009). This is an open book: it may read all the documentation, also of held-out symbols. The model may not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evaluation.text_overlap import rouge_l, token_f1
from finetuning.data.chat_format import ChatFormat
from finetuning.data.record_shapes import Example
from groundwork.user_errors import UserError
from optimization.engine.engine import Engine
from optimization.engine.request import GenerationRequest, RequestHandle
from transformer.sampling import SamplingParameters


@dataclass(frozen=True)
class AnswerScores:
    """Means over questions.

    Args:
        questions: how many questions.
        exact: share of answers that equal the reference, character by character.
        f1: words in common, 0 to 1.
        rouge_l: longest common subsequence of words, 0 to 1.
    """

    questions: int
    exact: float
    f1: float
    rouge_l: float


def score_answers(answers: Sequence[str], examples: Sequence[Example]) -> AnswerScores:
    """Compare answers with the last message of each conversation.

    Raises:
        UserError: there are no questions, or not exactly one answer for each.
    """
    if not examples or len(answers) != len(examples):
        raise UserError(
            f"{len(answers)} answers to {len(examples)} questions: each needs one, and there must be at least one"
        )
    references = [example.messages[-1].content.strip() for example in examples]
    pairs = list(zip(answers, references, strict=True))
    count = len(pairs)
    return AnswerScores(
        questions=count,
        exact=sum(answer.strip() == reference for answer, reference in pairs) / count,
        f1=sum(token_f1(answer, reference) for answer, reference in pairs) / count,
        rouge_l=sum(rouge_l(answer, reference) for answer, reference in pairs) / count,
    )


def ask_model(
    engine: Engine,
    template: ChatFormat,
    examples: Sequence[Example],
    max_tokens: int = 96,
    shots: Sequence[Example] = (),
) -> Iterator[str]:
    """Greedy answers of a chat model, many at once, in order.

    Args:
        engine: engine of a model that knows the template.
        template: see `finetuning.data.chat_format`.
        examples: conversations; the last message is the reference answer, and the model does not see it.
        max_tokens: the most tokens of an answer.
        shots: answered questions that come before each conversation, after its system message.
    """
    parameters = SamplingParameters(max_tokens=max_tokens, temperature=0.0)
    end_ids = {template.end_id(engine.tokenizer), *engine.tokenizer.end_ids}
    shown = [message for shot in shots for message in shot.messages]
    # A long prompt loses its beginning to leave room for the answer, but at least half the context stays for the prompt.
    room = max(1, engine.context_length // 2, engine.context_length - max_tokens)
    pending = deque[RequestHandle]()
    for example in examples:
        if len(pending) == engine.settings.max_waiting:
            yield _answer(pending.popleft())
        start = 1 if example.messages[0].role == "system" else 0
        conversation = [*example.messages[:start], *shown, *example.messages[start:-1]]
        ids = template.encode(conversation, engine.tokenizer, generation_prompt=True).ids
        ids = ids[-room:]
        pending.append(engine.submit(GenerationRequest(ids, parameters, end_ids=end_ids)))
    yield from map(_answer, pending)


def _answer(handle: RequestHandle) -> str:
    return "".join(event.text for event in handle).strip()


def nearest_question_answers(train: Sequence[Example], examples: Sequence[Example]) -> list[str]:
    """The answer of the training question that shares most words with each question, by BM25."""
    corpus = [_question(example) for example in train]
    answers = [example.messages[-1].content for example in train]
    return [answers[i] for i in _best_matches(corpus, [_question(example) for example in examples])]


def retrieved_answers(documents: Sequence[tuple[str, str]], examples: Sequence[Example]) -> list[str]:
    """The answer sentence of the document that BM25 finds for each question.

    Args:
        documents: pairs of a text to search and the sentence that is its answer.
        examples: conversations; the last message is not shown.
    """
    found = _best_matches([text for text, _ in documents], [_question(example) for example in examples])
    return [documents[i][1] for i in found]


def _question(example: Example) -> str:
    """All messages before the answer."""
    return " ".join(message.content for message in example.messages[:-1])


def _best_matches(corpus: list[str], queries: list[str]) -> list[int]:
    import bm25s

    # A dotted name counts as one word, and its parts count too: "deque.append" is rarer than "deque" and "append".
    pattern = r"(?u)[\w.]*\w+\.\w+|\b\w+\b"
    index = bm25s.BM25()
    index.index(bm25s.tokenize(corpus, token_pattern=pattern, stopwords=[], show_progress=False), show_progress=False)
    tokens = bm25s.tokenize(queries, token_pattern=pattern, stopwords=[], show_progress=False)
    documents, _ = index.retrieve(tokens, k=1, show_progress=False)
    return [int(row[0]) for row in documents]
