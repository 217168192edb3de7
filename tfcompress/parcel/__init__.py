"""Packing a `.tflite` for shipping: `tfc.pack`, `tfc.unpack`, `tfc.slim`.

The format, versions 1 and 2, for whoever writes a decoder in another language
=============================================================================

Numbers are little-endian; `v` is a varint (seven bits to a byte, the lowest first, the eighth bit
set on all but the last). All arithmetic is on whole numbers; `>>` keeps the sign, `//` rounds down.

**Container.** `TFCP`, version (a byte; 2 where a tensor is flat, see `scan`), v size of the
original, its BLAKE2b digest (16 bytes), v count of padding bytes and these, the body, CRC-32 of
everything before it. A decoder refuses sizes above its limit and above 4096 bytes for each byte of
the container and 1 MiB more. The body is form
0 and one *plain part*; or form 1, plain part *text*, plain part *rest*, v bytes of *coded*, v bytes
of *raw*, coded, raw.

**Plain part** (`plain`). v size, method (0 stored, 1 deflate, from 2 on LZMA1 without a header, of
the (lc, lp, pb) of `plain._SETTINGS`), v coded bytes, these.

**Text.** v regions, v bytes of places, v bytes of plan, v bytes of skeleton; then places, plan and
skeleton. The skeleton is the file without its regions. For each region, places holds v = 3 * gap +
w: `gap` skeleton bytes precede it, and the four last of these are a count that, times (1, 4, 8)[w],
is the region's length. With the regions zero the file is parsed as a `.tflite` (`regions.survey`):
that tells each region's type and shape. Regions are coded as items, in the order of
`numbers._items`: lists (scales, zero points, one-dimensional constants) of one role and type
joined; scales that follow from ranges; scales of biases; every other constant by itself. The plan
has one byte for each item: 0, its bytes are next in *rest*; 1, small; 2, small with alphabets; 3,
wide; 4, a palette of wide numbers, their places coded as small; 5, scales that follow (see
`regions.Known`); and what each needs.

**Decisions.** Every value becomes a few yes-or-no decisions: see `small` and `wide`. Values come in
batches (`scan`): of a batch first the first decision of all values, then the second of those that
have one, and so on. Bits that no model foretells come from *raw*, packed eight to a byte, the
highest first, each call on a new byte.

**Probability** (`mixing`). For each input, h = (c + node * 0x9E3779B1) * 0x85EBCA6B with c =
(context + salt) * 0xC2B2AE35, then h ^= h >> 15 and h *= 0x2C1B3C6D, all modulo 2**32; the highest
bits of h find a pair (zeros, ones) of counts. Opinion: L[ones] - L[zeros], with L[n] = round(256
ln(n + 0.4)). The sum of opinions times weights, >> 16 and clipped to +-2816, is looked up in the
logistic function: the probability of a one, of 65536. When all decisions of a step are known,
counts grow, and those whose sum is over 4095 are halved; then each weight grows by the step's sum
of error * opinion, // (256 * (60 + min(seen >> 3, 2000)) * (1 + times // 128)): error = 65536 * bit
- probability, `times` is how often the weight was used in the step, `seen` how often before. An
input has eight weights for each kind of decision: by zeros + ones.

**Coder** (`entropy`). Blocks of at least 2**22 decisions, the last excepted, ending after a whole
step: v lanes, v words, a state of 5 bytes for each lane, words of 16 bits. Decision k of a step is
made by lane k modulo lanes; of each row of lanes, those whose state fell below 2**24 take the next
words in order. With p the probability and low = state mod 65536: a one if low < p, then state = p *
(state >> 16) + low; else state = (65536 - p) * (state >> 16) + low - p. Every state ends at 2**24.
"""
