"""Writes the T5 directories that tests import: random weights, real tokenizers, and the logits that
`transformers` computes from them.

    pip install torch transformers
    python3 make_t5.py TEXT

TEXT trains the tokenizers. Made with torch 2.15, transformers 5.24 and tokenizers 0.23 from the
README of that day; other versions give other random weights, so other fixtures that serve as well.
"""

import pathlib
import shutil
import sys

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import T5Config, T5ForConditionalGeneration

HERE = pathlib.Path(__file__).parent
SPECIAL = ["<pad>", "</s>", "<unk>"]


def unigram(text, size):
    """As sentencepiece has it: metaspace, and a few byte pieces."""
    trained = Tokenizer(models.Unigram())
    trained.normalizer = normalizers.NFKC()
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces = [f"<0x{byte:02X}>" for byte in b"\n\t~A"]
    trainer = trainers.UnigramTrainer(vocab_size=size - len(pieces), special_tokens=SPECIAL, unk_token="<unk>")
    trained.train_from_iterator(text, trainer)
    scores = sorted(trained.get_vocab().items(), key=lambda pair: pair[1])
    vocab = [(piece, -float(i)) for piece, i in scores]
    vocab[len(SPECIAL):len(SPECIAL)] = [(piece, 0.0) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=2, byte_fallback=True))
    tokenizer.normalizer = trained.normalizer
    tokenizer.pre_tokenizer = trained.pre_tokenizer
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def byte_level(text, size):
    """As GPT-2 has it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(text, trainer)
    return tokenizer


def make(name, tokenizer, text, tied, **sizes):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(7)
    # A few ids that the tokenizer does not have, as T5 pads its vocabulary.
    config = T5Config(
        vocab_size=tokenizer.get_vocab_size() + 5, d_model=64, d_kv=16, d_ff=64, num_heads=2, num_layers=2,
        tie_word_embeddings=tied, decoder_start_token_id=0, dropout_rate=0.0, **sizes)
    model = T5ForConditionalGeneration(config).eval()
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(0.25 * torch.randn_like(model.shared.weight))
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "norm" in key:
                value += 0.2 * torch.randn_like(value)
            if "relative_attention_bias" in key:
                value *= 6
            if ".q." in key:
                value *= 3
    model.half().save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    model = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    assert tied == (model.lm_head.weight.data_ptr() == model.shared.weight.data_ptr())
    ids = [i for line in text for i in tokenizer.encode(line).ids]
    source = torch.tensor([ids[100:118]])
    target = torch.tensor([[0] + ids[300:346]])
    with torch.no_grad():
        logits = model(input_ids=source, decoder_input_ids=target).logits[0]
        # With an empty input attention to it adds nothing; `transformers` itself refuses one.
        for key, value in model.named_parameters():
            if "EncDecAttention.o." in key:
                value.zero_()
        alone = model(input_ids=source, decoder_input_ids=target).logits[0]
    # The first row of each, and every ninth: the fixtures stay small.
    rows = slice(0, None, 9)
    save_file({"source": source[0], "target": target[0], "logits": logits[rows].contiguous(),
               "alone": alone[rows].contiguous()}, folder / "expected.safetensors")
    (folder / "generation_config.json").unlink(missing_ok=True)


def main():
    text = pathlib.Path(sys.argv[1]).read_text().splitlines()
    make("t5-relu", unigram(text, 330), text, True)
    make("t5-gated-gelu", byte_level(text, 340), text, False, feed_forward_proj="gated-gelu",
         num_decoder_layers=1)


main()
