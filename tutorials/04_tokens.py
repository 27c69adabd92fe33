# %% [markdown]
# # 4. From text to tokens
#
# The encoder gives vectors of sound. The decoder, in the next lesson, writes text, but it knows no
# letters and no words: it chooses numbers, the *ids* of *tokens*. A tokenizer turns text into ids
# and back. There are three kinds of them in the models that this package loads, and each comes with
# signs of its own: "[UNK]", "##", "Ġ", "▁". We build all three, let them cut the same text, and
# follow the ids into the decoder.

# %%
import io
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import sentencepiece
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F

import nanos2t

plt.rcParams.update(
    {"figure.constrained_layout.use": True, "axes.spines.top": False, "axes.spines.right": False}
)
BLUE = "#2a6f97"
ORANGE = "#e07a1f"
GREEN = "#4f8a4c"
RED = "#b23a48"
GREY = "0.6"
torch.set_grad_enabled(False)

NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty "
    "ninety"
)
ONES = NUMBERS.split()[:20]
TENS = NUMBERS.split()[20:]


def spell(n):
    """Write a number below 1,000 in English words."""
    if n < 20:
        return ONES[n]
    if n < 100:
        tens = TENS[n // 10 - 2]
        if n % 10 == 0:
            return tens
        return f"{tens}-{ONES[n % 10]}"
    hundreds = f"{ONES[n // 100]} hundred"
    if n % 100 == 0:
        return hundreds
    return f"{hundreds} and {spell(n % 100)}"


texts = [spell(n) for n in range(1000)]
SENTENCE = "two hundred and forty-seven cafés"
print(texts[247])

# %% [markdown]
# ## Letters, words, or something between
#
# A thousand numbers are all the text that we have. What should a token be?
#
# - A *letter*: the vocabulary is tiny, and the text is long. Every token costs the decoder a step.
# - A *word*: the text is short, and the vocabulary never ends. A name that was not in the training
#   text cannot be written at all.
# - A *piece*: whole words where they are frequent, and parts of words for the rest. All models of
#   today do this. They differ in how the pieces are found, and in what happens to the spaces.
#
# ## Byte pair encoding, by hand
#
# Start from letters, and join the most frequent pair of neighbours to a new piece; then do it again
# (Sennrich et al. 2016). Pairs are counted within words only, and each word keeps the space before
# it, written "▁" to be seen. That is the whole training:

# %%
words = Counter()
for text in texts:
    words.update("▁" + word for word in text.split())


def merge_pair(pieces, pair):
    """Join each pair of these two neighbours to one piece."""
    merged = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def count_pairs(splits):
    pairs = Counter()
    for word, pieces in splits.items():
        for pair in zip(pieces, pieces[1:]):
            pairs[pair] += words[word]
    return pairs


def train_bpe(num_merges):
    """Return the pairs in the order in which they are joined, all pieces, and the pieces of a
    text after each merge.
    """
    splits = {word: list(word) for word in words}
    vocabulary = sorted({letter for word in words for letter in word})
    merges = []
    lengths = []
    for _ in range(num_merges):
        pairs = count_pairs(splits)
        # Of pairs that are equally frequent, the one whose pieces are older.
        pair = max(pairs, key=lambda p: (pairs[p], *(-vocabulary.index(piece) for piece in p)))
        merges.append(pair)
        if pair[0] + pair[1] not in vocabulary:
            vocabulary.append(pair[0] + pair[1])
        splits = {word: merge_pair(pieces, pair) for word, pieces in splits.items()}
        total = sum(words[word] * len(pieces) for word, pieces in splits.items())
        lengths.append(total / len(texts))
    return merges, vocabulary, lengths


merges, vocabulary, lengths = train_bpe(120)
print("first merges:", *("+".join(pair) for pair in merges[:12]))

# The library finds the same merges, in the same order.
library = tokenizers.Tokenizer(models.BPE())
library.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁")
trainer = trainers.BpeTrainer(vocab_size=len(vocabulary), show_progress=False)
library.train_from_iterator(texts, trainer)


def encode_bpe(word):
    """Split a word into letters, and do the merges in the order in which they were learned."""
    pieces = list(word)
    for pair in merges:
        pieces = merge_pair(pieces, pair)
    return pieces


pieces = [piece for word in texts[247].split() for piece in encode_bpe("▁" + word)]
print(texts[247], "->", pieces)
for text in texts:
    ours = [piece for word in text.split() for piece in encode_bpe("▁" + word)]
    assert ours == library.encode(text).tokens

figure, axis = plt.subplots(figsize=(8, 3.4))
letters = len(vocabulary) - len({"".join(pair) for pair in merges})
axis.plot(letters + np.arange(1, 121), lengths, color=BLUE, lw=2)
for i in (0, 6, 10, 30, 60):
    name = "".join(merges[i])
    axis.plot(letters + i + 1, lengths[i], "o", color=ORANGE)
    axis.annotate(name, (letters + i + 1, lengths[i]), (6, 6), textcoords="offset points")
num_words = np.mean([len(text.split()) for text in texts])
axis.axhline(num_words, color=GREY, ls=":")
axis.text(letters, num_words + 0.4, "words, separated by spaces", color=GREY)
axis.set(xlabel="pieces in the vocabulary", ylabel="pieces in a text", ylim=(0, None))
axis.set(title="each merge makes the vocabulary larger and the texts shorter")
# Picture: a falling curve, the number of pieces of a text against the size of the vocabulary
plt.show()
assert lengths == sorted(lengths, reverse=True)
assert letters == 21 and lengths[0] > 20 and lengths[-1] < num_words + 1

# %% [markdown]
# *What to look at: the first merges save the most. The curve is steep while frequent pairs are
# joined, and nearly flat at the end, where a new piece serves one word of a thousand.*
#
# ## GPT-2 and BART: bytes, and "Ġ"
#
# Letters that never occurred in training are a problem. GPT-2 does not have it: it merges *bytes*,
# of which there are only 256, and any text is bytes (UTF-8). Bytes are not printable, though; so
# each is shown as a character: those that print as they are, the others as the characters from
# number 256 on, in turn. The space, byte 32, becomes "Ġ", and "é", which is two bytes, becomes
# "Ã©". If you see these signs in a vocabulary, nothing is broken.

# %%


def byte_characters():
    """The character for each byte, as GPT-2 has it."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = {}
    for byte in range(256):
        if byte in printable:
            characters[byte] = chr(byte)
        else:
            characters[byte] = chr(256 + len([b for b in characters if b not in printable]))
    return characters


characters = byte_characters()
shown = "".join(characters[byte] for byte in " cafés".encode())
print("' cafés' is", list(" cafés".encode()), "shown as", shown)
assert shown == "ĠcafÃ©s"
assert sorted(characters.values()) == sorted(pre_tokenizers.ByteLevel.alphabet())

gpt2 = tokenizers.Tokenizer(models.BPE())
gpt2.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
gpt2.decoder = decoders.ByteLevel()
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
trainer = trainers.BpeTrainer(vocab_size=356, initial_alphabet=alphabet, show_progress=False)
gpt2.train_from_iterator(texts, trainer)
print(gpt2.encode(SENTENCE).tokens)
for text in (SENTENCE, "Zürich  東京 🙂"):
    assert gpt2.decode(gpt2.encode(text).ids) == text  # whatever it is, it comes back

# %% [markdown]
# ## BERT: WordPiece, and "##"
#
# BERT lowers the case, drops accents, and cuts at spaces and at punctuation. Then it takes from
# each word the *longest* piece of its vocabulary, then the longest of what is left, and so on.
# Pieces that continue a word begin with "##". If a rest has no piece, the *whole word* becomes
# "[UNK]", and what it was is lost.
#
# As vocabulary we take what the merges above gave: pieces with a space before them begin a word.

# %%
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
begins = [piece[1:] for piece in vocabulary if piece.startswith("▁") and piece != "▁"]
inside = [piece for piece in vocabulary if not piece.startswith("▁")]
entries = [*SPECIAL, *begins, *inside, *("##" + piece for piece in inside)]
wordpieces = {piece: i for i, piece in enumerate(dict.fromkeys(entries))}


def encode_wordpiece(word):
    """Take the longest piece that is in the vocabulary from the front, again and again."""
    pieces = []
    while word:
        prefix = "##" if pieces else ""
        ends = [end for end in range(1, len(word) + 1) if prefix + word[:end] in wordpieces]
        if not ends:
            return ["[UNK]"]
        pieces.append(prefix + word[: ends[-1]])
        word = word[ends[-1] :]
    return pieces


bert = tokenizers.Tokenizer(models.WordPiece(wordpieces, unk_token="[UNK]"))
bert.normalizer = tokenizers.normalizers.BertNormalizer()
bert.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
bert.decoder = decoders.WordPiece()
print(bert.encode(SENTENCE).tokens)
print("and back:", bert.decode(bert.encode(SENTENCE).ids))
for word in [*ONES, *TENS, "hundred", "and", "cafes", "tenth", "fortyish"]:
    assert encode_wordpiece(word) == bert.encode(word).tokens
assert encode_wordpiece("cafes") == ["[UNK]"]  # our texts never had a c
print("thirty is", bert.encode("thirty").tokens, "and tenth is", bert.encode("tenth").tokens)

# %% [markdown]
# What comes back is not what went in: the hyphen has spaces around it, and the café is gone. A
# decoder that starts from BERT writes such text, too, whatever the encoder hears.
#
# ## mBART: sentencepiece, and "▁"
#
# sentencepiece reads the text as it is, spaces included, and writes a space as "▁". So it needs no
# rules about words, which languages such as Chinese do not separate. Its *unigram* model does not
# merge. Each piece has a log-probability; a text is worth the sum over its pieces; and of all ways
# to cut the text, the best is taken. Training starts with many pieces, and throws away those that
# the texts need the least (Kudo 2018).
#
# The best way is found without trying all: the best cut of the first n letters is the best cut of
# some shorter beginning, and one more piece. Lesson 8 has the same idea in two dimensions.

# %%
file = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts),
    model_writer=file,
    model_type="unigram",
    vocab_size=60,
    hard_vocab_limit=False,
    num_threads=1,
    minloglevel=2,
)
mbart = sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())
logprobs = {mbart.id_to_piece(i): mbart.get_score(i) for i in range(3, mbart.get_piece_size())}


def encode_unigram(text):
    """Return the pieces with the largest sum of log-probabilities, and that sum."""
    text = "▁" + text.replace(" ", "▁")
    best = [(0.0, [])]  # of the first n letters
    for end in range(1, len(text) + 1):
        ways = []
        for start in range(end):
            piece = text[start:end]
            total, pieces = best[start]
            if piece in logprobs:
                ways.append((total + logprobs[piece], [*pieces, piece]))
        best.append(max(ways, default=(-np.inf, [])))
    total, pieces = best[-1]
    return pieces, total


print(mbart.encode(SENTENCE, out_type=str))
for text in ("seventeen", "two hundred and forty-seven"):
    pieces, total = encode_unigram(text)
    print(f"{total:7.2f} {pieces}")
    assert pieces == mbart.encode(text, out_type=str)
for other in (["▁seven", "te", "en"], ["▁seven", "t", "e", "en"]):
    print(f"{sum(logprobs[piece] for piece in other):7.2f} {other}")
assert mbart.encode("cafés").count(mbart.unk_id()) == 2
assert mbart.decode(mbart.encode(texts[247])) == texts[247]

# %% [markdown]
# An unknown letter costs one token here, `<unk>`, not the whole word. Real vocabularies are trained
# on gigabytes of text, so they have all common letters; and newer models spell the rest in bytes
# ("byte_fallback").
#
# ## The same text, four times
#
# Below them is the tokenizer of the bundled model: byte pair encoding like the one by hand, trained
# on numbers in eight languages. It lacks the English "forty-" as one piece, because it has to share
# 320 places with seven more languages.

# %%
stt = nanos2t.load()
bundled = stt.tokenizer.backend
cuts = {
    "WordPiece (BERT)": bert.encode(SENTENCE).tokens,
    "bytes (GPT-2, BART)": gpt2.encode(SENTENCE).tokens,
    "unigram (mBART)": mbart.encode(SENTENCE, out_type=str),
    "bundled": bundled.encode(SENTENCE).tokens[:-1],
}


def draw_pieces(axis, y, pieces, unknown):
    """Draw pieces as boxes in a row, those that are `unknown` in red."""
    x = 0
    for i, piece in enumerate(pieces):
        width = 1.0 + len(piece)
        colour = (BLUE, GREEN)[i % 2]
        if piece in unknown:
            colour = RED
        axis.barh(y, width - 0.2, left=x, height=0.7, color=colour)
        axis.text(x + width / 2 - 0.1, y, piece, color="white", ha="center", va="center")
        x += width
    axis.text(x + 0.5, y, f"{len(pieces)} tokens", color=GREY, va="center")


no_id = {"WordPiece (BERT)": ["[UNK]"], "unigram (mBART)": ["c", "é"]}
figure, axis = plt.subplots(figsize=(10, 2.8))
for y, (name, pieces) in enumerate(cuts.items()):
    draw_pieces(axis, y, pieces, no_id.get(name, []))
axis.set(yticks=range(4), yticklabels=cuts, xticks=[], xlim=(0, 62), ylim=(3.6, -0.6))
axis.set(title=SENTENCE)
axis.spines[["left", "bottom"]].set_visible(False)
axis.tick_params(left=False)
# Picture: one sentence as four rows of boxes, a row for each tokenizer, a box for each token
plt.show()
assert "[UNK]" in cuts["WordPiece (BERT)"] and "Ġforty" in cuts["bytes (GPT-2, BART)"]
assert "▁forty-" not in cuts["bundled"] and min(map(len, cuts.values())) == 7

# %% [markdown]
# *What to look at: where the spaces went (nowhere in BERT, before the word in the others), and what
# is red, which the tokenizer cannot write again. Only the bytes lose nothing, whatever the text.*
#
# ## Ids: the same number means something else
#
# The place of a piece in the vocabulary is its id, and the decoder sees nothing else. Besides the
# pieces there are special tokens, which no text contains: where to start, where to stop, what fills
# up a batch, which language. Every family has its own, so a decoder needs exactly the tokenizer it
# was trained with:
#
# | | starts with | stops at | pads with | unknown |
# |---|---|---|---|---|
# | BERT, bert-base-uncased | [CLS] 101 | [SEP] 102 | [PAD] 0 | [UNK] 100 |
# | GPT-2, gpt2 | "endoftext" 50256 | the same | has none | cannot be |
# | BART, bart-base | `</s>` 2 | `</s>` 2 | `<pad>` 1 | `<unk>` 3 |
# | mBART-50 | `</s>` 2, then the language: de_DE 250003 | `</s>` 2 | `<pad>` 1 | `<unk>` 3 |
# | bundled | `<s>` 1, then the language: `<verbatim>` 4 | `</s>` 2 | `<pad>` 0 | `<unk>` 3 |
#
# BART and mBART begin with the token that ends a text: the program that trained them made the
# decoder's input by moving the last token to the front. In a checkpoint these ids are in
# `generation_config.json` (`decoder_start_token_id` and so on), and in nanos2t in
# `model.generation`.

# %%
ids = bert.encode(texts[247]).ids
print("ids of WordPiece:", ids)
print("read by the tokenizer of the bundled model:", stt.tokenizer.decode(ids))
ids = stt.tokenizer.encode("two four seven")
generation = stt.model.generation
print("bundled:", ids, "start", generation.decoder_start_token_id, "end", generation.eos_token_id)
assert ids[-1] == generation.eos_token_id
assert generation.lang_to_id["verbatim"] == 4 == bundled.token_to_id("<verbatim>")

# %% [markdown]
# ## From ids to vectors
#
# The first thing a decoder does with an id is to look up a row of a matrix, the embedding. That is
# the same as multiplying a vector of zeros with a single 1 in it by the matrix, only quicker. A row
# for the position is added, in BERT one for the token type, and then there is a norm:

# %%
embed = stt.model.decoder.embed
tokens = torch.tensor([ids])  # (1, T)
one_hot = F.one_hot(tokens, bundled.get_vocab_size()).float()  # (1, T, V)
looked_up = embed.tokens.weight[tokens]  # (1, T, H)
assert torch.allclose(one_hot @ embed.tokens.weight, looked_up)

x = looked_up * stt.model.decoder.config.embed_scale
x = x + embed.positions.weight[stt.model.decoder.config.position_offset :][: len(ids)]
x = x + embed.token_types.weight[0]
assert torch.allclose(embed.norm(x), embed(tokens, 0), atol=1e-5)

# %% [markdown]
# The numbers in the matrix are learned, like all others. At first the rows of "two" and "three" are
# as strange to each other as any two. What did training make of them? Here are the cosines between
# the rows of seven digits in three languages; the mean of all rows is taken off first.

# %%
DIGITS = {
    "English": "▁two ▁three ▁four ▁five ▁seven ▁eight ▁nine",
    "German": "zwei drei vier fünf sieben acht neun",
    "French": "▁deux ▁trois ▁quatre ▁cinq ▁sept ▁huit ▁neuf",
}
names = " ".join(DIGITS.values()).split()
rows = embed.tokens.weight - embed.tokens.weight.mean(0)
rows = F.normalize(rows[[bundled.token_to_id(name) for name in names]], dim=1)
cosines = (rows @ rows.T).numpy()

digit = np.arange(21) % 7
language = np.arange(21) // 7
same_digit = digit[:, None] == digit
same_language = language[:, None] == language
translations = cosines[same_digit & ~same_language].mean()
strangers = cosines[~same_digit & ~same_language].mean()
print(f"a digit and its translation: {translations:.2f}, another digit there: {strangers:.2f}")

figure, axis = plt.subplots(figsize=(7, 6))
picture = axis.imshow(np.where(np.eye(21), np.nan, cosines), cmap="YlGnBu", vmin=0, vmax=0.6)
axis.set(xticks=range(21), yticks=range(21), yticklabels=names)
axis.set_xticklabels(names, rotation=90)
for edge in (6.5, 13.5):
    axis.axhline(edge, color="white", lw=3)
    axis.axvline(edge, color="white", lw=3)
axis.set(title="how alike the rows of the embedding are")
figure.colorbar(picture, label="cosine", shrink=0.7)
# Picture: a square of 21 digits in three languages by the same, with diagonals in all blocks
plt.show()
assert translations > 0.25 and translations > 2 * strangers

# %% [markdown]
# *What to look at: the three blocks on the diagonal (digits of one language are alike: they are
# found in the same places), and the short diagonals in the other six. "two", "zwei" and "deux"
# have different ids, but the same sound makes the decoder write them: so their rows became alike.*
#
# The matrix is used a second time, at the end of the decoder: its product with the last vector
# gives the scores of all tokens (`tied`). So a token is likely where the vector points in the
# direction of its row.
#
# ## Try
#
# 1. Encode your name with `bert`, `gpt2` and `mbart`, and decode the ids again. Which of them give
#    it back?
# 2. Train the bytes with 20 merges and with 1,000 (`vocab_size` 276 and 1256). How many tokens has
#    "two hundred and forty-seven", and how large does the vocabulary really get?
# 3. Exchange the rows of "▁four" and "▁seven" in the embedding. What does the model write for the
#    sample? Why not the same as before?
#
# <details><summary>Answers</summary>
#
# 1. "Zoë" comes back as "zoe" from `bert`, which wants neither capitals nor accents, and as
#    question marks from `mbart`, which has seen no capital letter here. `gpt2` gives back every
#    name, also 李, in three bytes. The real vocabularies of BERT and mBART have all of these
#    letters, but BERT's "uncased" one loses capitals and accents all the same.
# 2. With 20 merges 12 tokens, with 100 merges six: "two", "Ġhundred", "Ġand", "Ġforty", "-",
#    "seven" (GPT-2 cuts at the hyphen first). 1256 gives the same six: after 92 merges every word
#    is one piece, there is no pair left to join, and the vocabulary ends at 348.
# 3. It writes "two seven four". The rows are read and written with: where it recognises "four" it
#    now scores the other id highest, and when it reads that id back, it gets the vector of "four"
#    again. So it goes on undisturbed, and only the names are exchanged. The ids themselves never
#    meant anything.
#
# </details>
#
# ## Now write it
#
#     nanos2t exercises 7    # the decoder's embeddings: 20 minutes, *
