#!/usr/bin/env python3
"""Write a tiny llama-architecture GGUF with synthetic weights, no downloads.

Needs only `pip install gguf numpy`.  About 1-2 MB, loads in llama.cpp
(llama-server, llama-cpp-python) and is a plain GGUF for `ollama create`.

The weights are random noise plus a planted first-order Markov chain, so that
  * at temperature 0 the model always "says" the same readable sentences and
    then ends its turn (finish_reason "stop");
  * at temperature > 0 it skips words at random, reproducibly for a given seed;
  * with ignore_eos / an EOS logit bias it runs on for ever (length, disconnect);
  * under a JSON grammar (response_format, tool calls) every string, array and
    object closes by itself, so constrained output is finite;
  * given tools and a user turn it calls a tool; after a tool result it talks;
  * with --thinking the template opens a <think> block, the chain closes it.
Every prompt character is one token (ASCII) or one token per UTF-8 byte, so
prompt token counts are exactly predictable.

  make_tiny_gguf.py chat.gguf
  make_tiny_gguf.py think.gguf --thinking
  make_tiny_gguf.py embed.gguf --embedding
  make_tiny_gguf.py slow.gguf  --layers 24 --embd 512 --ff 1536   # ~1e2 tok/s
  make_tiny_gguf.py long.gguf  --endless     # begins again where it would end
"""

import argparse

import gguf
import numpy as np

CHAT = """{%- if tools %}<|im_start|>system
# Tools
You may call these functions:
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools>
Answer a call as <tool_call>{"name": <name>, "arguments": <object>}</tool_call><|im_end|>
{% endif %}{%- for m in messages %}<|im_start|>{{ m.role }}
__PAST__{{ m.content or '' }}{%- for c in (m.tool_calls or []) %}
<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant
__THINK__{% endif %}"""
TOOLS = "{% if tools and messages[-1].role == 'user' %}{{ '\\n' }}{% endif %}"
THINK = "{% if enable_thinking is not defined or enable_thinking %}<think>{% else %}<think></think>{% endif %}"

PAST = "{% if m.role == 'assistant' and m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"

# every word must be distinct: the chain is first-order
THOUGHT = ["let", "me", "think", "about", "this", "for", "a", "while", "first"]
SAID = [
    *["Hello,", "I", "am", "one", "tiny", "llama", "with", "random", "weights;"],
    *["tokens", "keep", "flowing", "until", "the", "sentence", "ends."],
]


def main() -> None:
    ap = argparse.ArgumentParser()
    ap.add_argument("out")
    ap.add_argument("--name", default="tiny-llama")
    ap.add_argument("--layers", type=int, default=2)
    ap.add_argument("--embd", type=int, default=128)
    ap.add_argument("--heads", type=int, default=4)
    ap.add_argument("--ff", type=int, default=256)
    ap.add_argument("--ctx", type=int, default=32768)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--thinking", action="store_true")
    ap.add_argument("--embedding", action="store_true", help="mark as a mean-pooled embedding model")
    ap.add_argument("--endless", action="store_true", help="never end a turn")
    a = ap.parse_args()
    rng = np.random.default_rng(a.seed)
    T = gguf.TokenType

    toks: list[str] = []
    types: list[int] = []
    bias: list[float] = []
    forms: dict[str, int] = {}

    def add(text: str, kind: int, b: float) -> int:
        toks.append(text)
        types.append(int(kind))
        bias.append(b)
        forms.setdefault(text, len(toks) - 1)
        return len(toks) - 1

    unk = add("<unk>", T.UNKNOWN, -30)
    bos = add("<s>", T.CONTROL, -30)
    add("</s>", T.CONTROL, -30)
    for i in range(256):
        add(f"<0x{i:02X}>", T.BYTE, -12)
    # biases only matter when a grammar leaves a choice: close things eagerly
    punct = {'"': 6, "{": 5, "}": 5, "]": 5.5, ",": 3, ":": 1, " ": -3}
    for c in range(0x20, 0x7F):
        ch = chr(c)
        b = punct.get(ch, 2 if ch.isdigit() else -2)
        add("\u2581" if ch == " " else ch, T.NORMAL, b - 8)
    eot = -1
    for s in ("<|im_start|>", "<|im_end|>"):
        eot = add(s, T.CONTROL, -12)
    think = add("<think>", T.USER_DEFINED, -14)
    unthink = add("</think>", T.USER_DEFINED, -14)
    call = add("<tool_call>", T.USER_DEFINED, -14)
    uncall = add("</tool_call>", T.USER_DEFINED, -14)
    para = add("\n\n", T.USER_DEFINED, -14)  # no JSON string may hold it
    nonword = len(toks)
    thought = [add("\u2581" * (i > 0) + w, T.NORMAL, -6) for i, w in enumerate(THOUGHT)]
    said = [add("\u2581" * (i > 0) + w, T.NORMAL, -6) for i, w in enumerate(SAID)]
    assert len(set(toks)) == len(toks)
    V, d = len(toks), a.embd
    words = list(range(nonword, V))
    # ---- planted chain: one dim per state in the embedding -> rows of the output
    START, THINKING, PARA, CALL, CLOSE, END, SPARE = range(1, 8)
    emb = rng.normal(0, 0.02, (V, d))
    out = rng.normal(0, 0.02, (V, d))
    emb[:, 0] = 1.0  # constant direction = per-token bias
    h = np.sqrt(d / 2)  # what 1.0 becomes after RMSNorm
    out[:, 0] = np.array(bias) / h
    state = dict.fromkeys(range(nonword), START)
    state |= {think: THINKING, para: PARA, call: CALL, forms["}"]: CLOSE, uncall: END}
    state |= {w: SPARE + i for i, w in enumerate(words)}
    assert SPARE + len(words) < d, "embd too small"
    for t, dim in state.items():
        emb[t, dim] = 1.0

    def go(dim: int, *to: tuple[int, float]) -> None:
        for t, logit in to:
            out[t, dim] = (logit - bias[t]) / h

    quote = forms['"']
    go(START, (said[0], 8))
    go(THINKING, (thought[0], 8))
    go(PARA, (call, 9))
    go(CALL, (forms["<0x0A>"], 9))
    go(CLOSE, (eot, 9), (uncall, 7))
    go(END, (eot, 9))
    for seq, end in ((thought, unthink), (said, said[0] if a.endless else eot)):
        for i, x in enumerate(seq[:-1]):
            go(state[x], (seq[i + 1], 8), *([(seq[i + 2], 7)] if 0 < i < len(seq) - 3 else []))
        # last word: end; if that may not be, a paragraph; in a JSON string, close it
        go(state[seq[-1]], (end, 12), (para, 9), (quote, 8))

    w = gguf.GGUFWriter(a.out, "llama")
    w.add_name(a.name)
    w.add_description("synthetic test model, no training data")
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    w.add_vocab_size(V)
    w.add_context_length(a.ctx)
    w.add_embedding_length(d)
    w.add_block_count(a.layers)
    w.add_feed_forward_length(a.ff)
    w.add_head_count(a.heads)
    w.add_head_count_kv(a.heads)
    w.add_rope_dimension_count(d // a.heads)
    w.add_rope_freq_base(10000.0)
    w.add_layer_norm_rms_eps(1e-5)
    if a.embedding:
        w.add_pooling_type(gguf.PoolingType.MEAN)
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list(toks)
    w.add_token_scores([-float(i) for i in range(V)])
    w.add_token_types(types)
    w.add_unk_token_id(unk)
    w.add_bos_token_id(bos)
    w.add_eos_token_id(eot)
    w.add_add_bos_token(True)
    w.add_add_space_prefix(False)
    if not a.embedding:
        w.add_chat_template(
            CHAT.replace("__THINK__", THINK if a.thinking else TOOLS).replace("__PAST__", PAST * a.thinking)
        )

    def put(name: str, x: np.ndarray) -> None:
        w.add_tensor(name, np.ascontiguousarray(x, dtype=np.float32))

    def rnd(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.1 / np.sqrt(shape[-1]), shape)

    put("token_embd.weight", emb)
    put("output_norm.weight", np.ones(d))
    put("output.weight", out)
    for i in range(a.layers):
        b = f"blk.{i}."
        put(b + "attn_norm.weight", np.ones(d))
        for n in ("q", "k", "v"):
            put(b + f"attn_{n}.weight", rnd(d, d))
        put(b + "attn_output.weight", rnd(d, d))
        put(b + "ffn_norm.weight", np.ones(d))
        put(b + "ffn_gate.weight", rnd(a.ff, d))
        put(b + "ffn_up.weight", rnd(a.ff, d))
        put(b + "ffn_down.weight", rnd(d, a.ff))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    print(f"{a.out}: vocab {V}, embd {d}, layers {a.layers}")


if __name__ == "__main__":
    main()
