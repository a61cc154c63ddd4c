"""The slow twins of sampling: plain definitions over the whole vocabulary, in float64.

A text's next token is described by {token: logit}; what is ruled out is not in it.
"""

from __future__ import annotations

import math


def start(logits):
    return {token: float(x) for token, x in enumerate(logits) if x > -math.inf}


def best_first(logits):
    return sorted(logits, key=lambda token: (-logits[token], token))


def softmax(logits):
    top = max(logits.values())
    weights = {token: math.exp(x - top) for token, x in logits.items()}
    total = math.fsum(weights.values())
    return {token: w / total for token, w in weights.items()}


def only(logits, tokens):
    return {token: logits[token] for token in tokens}


def logit_bias(logits, biases):
    return {t: x + biases.get(t, 0) for t, x in logits.items() if biases.get(t, 0) > -math.inf}


def penalties(logits, text, window, repeat, presence, frequency):
    seen = text if window == -1 else text[max(0, len(text) - window) :]
    changed = dict(logits)
    for token in set(seen) & set(logits):
        x = changed[token]
        x = x * repeat if x <= 0 else x / repeat
        changed[token] = x - frequency * seen.count(token) - presence
    return changed


def dry(logits, text, window, multiplier, base, allowed, breakers=()):
    """Penalize by the longest end of the text that stands before a token elsewhere in it."""
    seen = text if window == -1 else text[max(0, len(text) - window) :]
    after = [i for i, token in enumerate(seen) if token in breakers]
    free = len(seen) - 1 - after[-1] if after else len(seen)
    changed = dict(logits)
    for token in set(logits) - set(breakers):
        lengths = [0]
        for place in range(1, len(seen)):
            if seen[place] == token:
                n = 0
                while n < min(free, place) and seen[place - 1 - n] == seen[len(seen) - 1 - n]:
                    n += 1
                lengths.append(n)
        if max(lengths) >= allowed:
            changed[token] -= multiplier * base ** (max(lengths) - allowed)
    return changed


def top_n_sigma(logits, n):
    values = list(logits.values())
    mean = math.fsum(values) / len(values)
    sigma = math.sqrt(math.fsum((x - mean) ** 2 for x in values) / len(values))
    return {token: x for token, x in logits.items() if x >= max(values) - n * sigma}


def top_k(logits, k):
    return only(logits, best_first(logits)[:k])


def top_p(logits, share):
    p, kept, total = softmax(logits), [], 0.0
    for token in best_first(logits):
        kept.append(token)
        total += p[token]
        if total >= share:
            break
    return only(logits, kept)


def min_p(logits, share):
    p = softmax(logits)
    return {token: x for token, x in logits.items() if p[token] >= share * max(p.values())}


def typical_p(logits, share):
    p = softmax(logits)
    surprise = {token: -math.log(p[token]) for token in p if p[token] > 0}
    entropy = math.fsum(p[token] * s for token, s in surprise.items())
    kept, total = [], 0.0
    for token in sorted(surprise, key=lambda t: abs(surprise[t] - entropy)):
        kept.append(token)
        total += p[token]
        if total > share:
            break
    return only(logits, kept)


def xtc(logits, threshold):
    """Exclude, as it does when its chance has come."""
    p = softmax(logits)
    above = [token for token in best_first(logits) if p[token] >= threshold]
    return {token: x for token, x in logits.items() if token not in above[:-1]}


def temperature(logits, t):
    if t == 0:
        return only(logits, best_first(logits)[:1])
    return {token: x / t for token, x in logits.items()}


def dynamic_temperature(logits, t, spread, exponent):
    if len(logits) == 1:
        return logits
    low, high = max(0, t - spread), t + spread
    p = softmax(logits)
    entropy = -math.fsum(x * math.log(x) for x in p.values() if x > 0)
    return temperature(logits, low + (high - low) * (entropy / math.log(len(p))) ** exponent)


def mirostat(logits, limit):
    p = softmax(logits)
    kept = [token for token in best_first(logits) if p[token] >= 2**-limit]
    return only(logits, kept or best_first(logits)[:1])


def draw(logits, random):
    """Walk down the candidates until a random share of the probability is passed."""
    p, passed = softmax(logits), 0.0
    target = random.random()
    for token in best_first(logits):
        passed += p[token]
        if passed > target:
            return token
    return best_first(logits)[-1]
