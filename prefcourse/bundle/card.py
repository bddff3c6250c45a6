"""The data card `data/README.md` and `data/checksums.json`, written from what the steps of the bundle found."""

import hashlib
import json
from pathlib import Path

from prefcourse.rewards import GoldReward

NEGATIONS = ("It is not bad at all.", "I did not like this film.", "It isn't boring.", "Nothing great about it.",
             "You will never be bored.", "Far from a masterpiece.")  # fmt: skip


def write(out: Path, facts: dict) -> None:
    """Write README.md, facts.json and checksums.json (SHA-256 of every other file, by relative path) into `out`."""
    (out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8", newline="\n")
    gold = GoldReward.load(out / "gold.json")
    (out / "README.md").write_text(text(facts, gold, sizes(out)), encoding="utf-8", newline="\n")
    sums = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in sizes(out)}
    (out / "checksums.json").write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8", newline="\n")


def sizes(out: Path) -> dict[str, int]:
    """Relative path → bytes of every file of the bundle but the card, the checksums and the stored results."""
    files = sorted(p for p in out.rglob("*") if p.is_file())
    names = [p.relative_to(out).as_posix() for p in files]
    kept = [n for n in names if n not in ("README.md", "checksums.json") and not n.startswith("results/")]
    return {n: (out / n).stat().st_size for n in kept}


def text(facts: dict, gold: GoldReward, files: dict[str, int]) -> str:
    """The card as Markdown."""
    parts = [
        _corpus(facts["corpus"], sum(files.values())),
        _models(facts["base"], facts.get("again"), facts["sft"], facts["tokenizer"]),
        _gold(facts["gold"], gold),
        _data(facts["prompts"], facts["pairs"]),
        LIMITS,
        _steps(facts),
        _files(files, facts["made_with"]),
    ]
    return "".join(parts)


def _corpus(corpus: dict, total: int) -> str:
    """What the bundle is, and what it was learnt from. total: bytes of all files."""
    return f"""# tiny-reviews: data card and model card

Two small GPT-2 models, a tokenizer, a true reward, prompts and preference data for the course. All of it was made by

    python -m prefcourse bundle --imdb stanfordnlp/imdb

from the IMDb reviews of Maas et al. (2011), *Learning word vectors for sentiment analysis* (on the hub:
`stanfordnlp/imdb`). No review is in here, only what was learnt from them. Total size: {total / 1e6:.1f} MB.

## Corpus (not included)

TinyReviews: the sentences whose every word is among the 5,000 most frequent mostly-lower-case words, without names,
digits, quotes or crude words, under 200 characters; up to three neighbours make a short review.
{corpus["short_reviews"]:,} short reviews, {corpus["characters"]:,} characters, SHA-256 `{corpus["sha256"]}`.
3,000 of them are held out for validation and 3,000 for the test, by film review. A wider corpus of {corpus["wide"]:,}
pieces, with rarer words and names, serves in the first part of pre-training. `words.json` lists the 5,000 words.

"""


def _models(base: dict, again: dict | None, sft: dict, tokenizer: dict) -> str:
    """Tokenizer and models, and how far two runs are apart; without `again`, that this was not measured."""

    def nats(split: str, unit: str) -> str:
        return " | ".join(f"{model[split]['nats_per_' + unit]:.3f}" for model in (base, sft))

    band = "How far two runs are apart was not measured for these files."
    if again:
        ends = [again[split]["nats_per_character"] for split in ("valid", "test")]
        apart = zip(ends, (base[split]["nats_per_character"] for split in ("valid", "test")), strict=True)
        band = f"""How far two runs are apart: from step
{again["from_step"]:,} on, the same on other rows in another order ends at {ends[0]:.4f} and {ends[1]:.4f} nats per character,
{max(abs(a - b) for a, b in apart):.4f} from `base` at most."""
    return f"""## Tokenizer

A closed vocabulary of {tokenizer["tokens"]:,} tokens: `<|endoftext|>`, a placeholder `<|rare|>` that pre-training puts in the place of
the wide corpus's rare words, the 256 bytes, every word form that TinyReviews has five times at least, with the space
before it, and the commonest of the wide corpus. No merges: a form that is there is one token, any other is spelt in
bytes, and every text comes back as it was. A hyphenated word is one form. Of the training reviews {tokenizer["reviews_with_unknown"]:.1%} hold a form
that is no token; they serve in one row of 64. Of the forms in held-out reviews {tokenizer["known_valid"]:.2%} (validation) and
{tokenizer["known_test"]:.2%} (test) are tokens.

## Models

| | base | sft |
|---|---|---|
| architecture | GPT-2, 4 layers × 256, {tokenizer["tokens"]:,} tokens, 128 positions | the same |
| parameters | {base["parameters"]:,} | the same |
| trained on | {base["tokens"]:,} tokens, {base["steps"]:,} steps of 8,192, Muon and AdamW | {sft["rows"]:,} reviews that base wrote, one epoch, AdamW |
| held-out nats per character (validation) | {nats("valid", "character")} |
| held-out nats per character (test) | {nats("test", "character")} |
| held-out nats per token (validation) | {nats("valid", "token")} |
| held-out nats per token (test) | {nats("test", "token")} |

Nats: -log p of 3,000 held-out short reviews, each scored alone, from `<|endoftext|>` before it to `<|endoftext|>` after
it, over all tokens or all characters. Only those per character can be compared between tokenizers. Corpus, tokenizer
(SHA-256 `{tokenizer["sha256"][:16]}…`) and gold reward come out the same to the byte on any number of threads. Another machine's
arithmetic gives other weights of the models, and with them other prompts and pairs.
{band}

Before it is fine-tuned, `sft` loses the {sft["unwritten"]:,} tokens that stand inside no review of TinyReviews (bytes, first words of a
text, words of the wide corpus): ten nats of their logits there, along one direction of the embedding
(`prefcourse/bundle/unwritten.py`). The log of their probability, all together, falls from {sft["log_share_before"]} to {sft["log_share_after"]} nats.

It is fine-tuned on what `base` itself writes: of {sft["sampled"]:,} reviews sampled at temperature 0.7, {sft["ended"]:,} ended within
40 tokens, {sft["fit"]:,} of them were distinct and in the language of TinyReviews, and the {sft["rows"]:,} that `base` finds most
typical were kept. So `sft` writes at temperature 1 about what `base` writes at 0.7: at temperature 1 a model this small
puts a wrong word into every other review. The price: on held-out reviews of all kinds `sft` is worse than `base`, as the
table shows, and less varied.

`<|endoftext|>` is token 0 and serves as first, last and padding token. A prompt is text that a review could begin with,
given without it; `<|endoftext|>` alone asks for a whole review. `sft` finishes that one short review and ends it with
`<|endoftext|>`.

"""


def _gold(fit: dict, gold: GoldReward) -> str:
    best, worst = (", ".join(f"{n} ({w:+.2f})" for n, w in side) for side in gold.strongest(20))
    negations = "\n".join(f"| {s} | {gold.score(s):+.2f} |" for s in NEGATIONS)
    return f"""## Gold reward

`gold.json`: logistic regression on {fit["ngrams"]:,} words and pairs of neighbouring words, fitted on IMDb's labelled
training reviews in windows of 40 words. It gives the log-odds of "positive": the bias plus the weight of each n-gram.
Accuracy on IMDb's 25,000 test reviews: {fit["accuracy_test_reviews"]:.1%}; on one 40-word window of each: {fit["accuracy_40_word_windows"]:.1%}.

Strongest for positive: {best}.

Strongest for negative: {worst}.

It pays for words and not for sense: a heap of its favourites scores higher than any review, and so does more of the same.
So `evaluate` asks two things besides that need no other model: how typical a text is, in nats per token under `base`,
and whether it holds a word that is not in `words.json`.

Some of these words are signs rather than praise: "today" stands in reviews of old films that are loved today, "the only
bad thing" in reviews that found no other. It knows a negation only where the pair of words was frequent enough:

| text | log-odds |
|---|---|
{negations}

"""


def _data(prompts: dict, pairs: dict) -> str:
    train, crude = pairs["train"], pairs["crude_check"]
    dropped = "; ".join(f"{n} × {why}" for why, n in train["dropped"].items())
    return f"""## Prompts and preferences

Prompts are openings of 2 to 8 tokens that `sft` made up, of five types in equal numbers: {prompts["train"]:,} for training,
{prompts["validation"]} for validation, {prompts["test"]} for the test; no prompt is in two of them. For each prompt `sft` wrote four
completions at temperature 1; their pairs are labelled with a coin of probability σ(r*(x, y_a) − r*(x, y_b)), stored as
`probability`. Training pairs: {train["pairs"]:,}. Left out of {train["completions"]:,} completions: {dropped}.
`unpaired/` holds each completion alone, with a thumb up (`label`) of probability σ(r* − mean r*).
`sft_logps.safetensors` holds log π of the training pairs under `sft`, in float32 nats, as `train(reference=...)` takes it.

In {crude["samples"]:,} samples of `sft` at temperature 1 we count {crude["with_crude_words"]} with a crude word; {crude["finished"]:.1%} end with `<|endoftext|>` within 48 tokens.

"""


LIMITS = """## Use and limits

For learning how preference optimisation works. The models know nothing but how short film reviews sound; they make
things up, contradict themselves, and carry the opinions and the English of people who reviewed films online before
2011. Do not use them to judge texts, people or films, nor to write reviews that pass for somebody's. The gold reward is
a word counter: it is the truth of this small world by definition, and no measure of sentiment outside it.

Licence: the files here CC BY 4.0, the code that makes them MIT. The IMDb reviews belong to their authors; the data set
asks that Maas et al. (2011) be cited.

"""


def _steps(facts: dict) -> str:
    took = {step: found["seconds"] for step, found in facts.items() if "seconds" in found}
    rows = "\n".join(f"| `{step}` | {seconds / 60:,.1f} |" for step, seconds in took.items())
    return f"""## The steps

`python -m prefcourse bundle` runs these, in this order; a run that is interrupted goes on where it stopped. The minutes
are those of the run that made these files, on two cores; it may have had more than one machine.

| step | minutes |
|---|---|
{rows}

"""


def _files(sizes: dict[str, int], made_with: dict[str, str]) -> str:
    listing = "\n".join(f"| `{name}` | {size / 1e6:.2f} MB |" for name, size in sizes.items())
    return f"""## Files

| file | size |
|---|---|
{listing}

Made with Python {made_with["python"]}, torch {made_with["torch"]}, transformers {made_with["transformers"]}. Weights are fp16 safetensors, the rest is JSON: nothing is unpickled.
Checksums are in `checksums.json`; `load_world` compares them.
"""
