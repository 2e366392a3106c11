"""Rows of predictions.jsonl."""


def row(query, shots=4, order=0, output="ein Hund \u2028 läuft"):
    return {
        "task": "t", "shots": shots, "demonstrations": "random", "support": None, "control": None, "template": None,
        "decoding": "greedy", "seed": 0, "order": order, "query": query, "demonstration_ids": [],
        "demonstration_answers": [], "prompt": "p", "output": output, "references": ["r"], "scores": {},
    }  # fmt: skip


def setting(shots):
    return ("t", shots, "random", None, None, None, "greedy", 0)
