// Attention of one lane at one position, by the lane's warp (section 6, steps 2 to 4), on the
// tensor cores.
//
// A number `x` of 16 bits is `128 * high + low`, both of which are bytes, so a sum of products is
// four sums of products of bytes. The high and low bytes of up to four heads that share a key are
// the eight columns of `multiply`; its rows are 16 positions for scores, and 16 elements for sums
// of values. Attention weights are at most 2^14, so their high byte is at most 128 and has no sign.
//
// Keys and values lie in rings of a multiple of 32 places, in the order in which the threads read
// them: in blocks of 512 bytes, at `thread * 16 + word * 4 + byte`. A place may hold an older
// position or nothing yet; its attention weight is then zero.

#define SHARE (HEADS / KV_HEADS)
// Blocks of 32 elements of a key, and of 16 elements of a value.
#define KEY_STEPS ((HEAD_SIZE + 31) / 32)
#define VALUE_STRIPS ((HEAD_SIZE + 15) / 16)

S3A_DEVICE int high_part(int x) { return (x + 64) >> 7; }
S3A_DEVICE int low_part(int x) { return ((x + 64) & 127) - 64; }

S3A_DEVICE u32 pack(int a, int b, int c, int d) {
    return (a & 255) | (b & 255) << 8 | (c & 255) << 16 | (u32)(d & 255) << 24;
}

// The high bytes of four numbers, or the low ones.
S3A_DEVICE u32 part_of(int4 x, bool low) {
    return low ? pack(low_part(x.x), low_part(x.y), low_part(x.z), low_part(x.w))
               : pack(high_part(x.x), high_part(x.y), high_part(x.z), high_part(x.w));
}

// The high or low bytes of four attention weights, which have no sign.
S3A_DEVICE u32 weight_part_of(int4 x, bool low) {
    return low ? pack(x.x & 127, x.y & 127, x.z & 127, x.w & 127) : pack(x.x >> 7, x.y >> 7, x.z >> 7, x.w >> 7);
}

// Sums of products of whole numbers, from the sums of products of their bytes: `a` is that of the
// high bytes of keys or values, `b` that of the low ones; even places are those of the other
// factor's high bytes.
S3A_DEVICE int joined(const int (&a)[4], const int (&b)[4], int at) {
    return 16384 * a[at] + 128 * (a[at + 1] + b[at]) + b[at + 1];
}

// Keys and values of one layer: the keys of all heads, then the values.
struct Cache {
    u8 *keys, *values;
    u32 ring;
};

// Bytes of a head's keys, and of its values. In each block, high bytes stand before low ones.
S3A_DEVICE u32 key_bytes(u32 ring) { return ring * KEY_STEPS * 64; }
S3A_DEVICE u32 value_bytes(u32 ring) { return ring * VALUE_STRIPS * 32; }

S3A_DEVICE Cache cache_of(u64 place, u32 layer, u32 heads, u32 ring) {
    const u64 keys = (u64)heads * key_bytes(ring), values = (u64)heads * value_bytes(ring);
    u8 *start = (u8 *)place + layer * (keys + values);
    Cache cache = {start, start + keys, ring};
    return cache;
}

// Stores the keys and values of a position in its place of the ring.
S3A_DEVICE void store(Cache cache, u32 place, const int *keys, const int *values) {
    for (u32 j = thread_of_warp(); j < KV_INNER / 4; j += 32) {
        const u32 head = j * 4 / HEAD_SIZE, element = j * 4 % HEAD_SIZE;
        const int4 raw = *(const int4 *)(keys + j * 4);
        const int4 x = {clamp(raw.x, -KV_MAX, KV_MAX), clamp(raw.y, -KV_MAX, KV_MAX),
                        clamp(raw.z, -KV_MAX, KV_MAX), clamp(raw.w, -KV_MAX, KV_MAX)};
        // Block of 16 positions and 32 elements; thread and word of a row and four columns.
        u8 *block = cache.keys + head * key_bytes(cache.ring) + (place / 16 * KEY_STEPS + element / 32) * 1024;
        const u32 thread = place % 8 * 4 + element % 16 / 4, word = place / 8 % 2 + element / 16 % 2 * 2;
        u32 *to = (u32 *)(block + thread * 16 + word * 4);
        to[0] = part_of(x, false);
        to[128] = part_of(x, true);
    }
    for (u32 j = thread_of_warp(); j < KV_INNER; j += 32) {
        const u32 head = j / HEAD_SIZE, element = j % HEAD_SIZE;
        const int x = clamp(values[j], -KV_MAX, KV_MAX);
        // Block of 16 elements and 32 positions.
        u8 *block =
            cache.values + head * value_bytes(cache.ring) + (place / 32 * VALUE_STRIPS + element / 16) * 1024;
        const u32 thread = element % 8 * 4 + place % 16 / 4, word = element / 8 % 2 + place / 16 % 2 * 2;
        u8 *to = block + thread * 16 + word * 4 + place % 4;
        to[0] = (u8)high_part(x);
        to[512] = (u8)low_part(x);
    }
}

// What a position attends to: the place of the last position in the ring, how many positions there
// are up to and with the last one, and how many places may hold one of them.
struct Reach {
    u32 last, count, places;
};

// How far a place's position is before the last one; `count` or more if it is out of reach.
S3A_DEVICE u32 distance_of(Reach reach, u32 ring, u32 place) {
    return place <= reach.last ? reach.last - place : reach.last + ring - place;
}

// Attention of up to four heads of one shared key: queries from `query`, scores and then weights in
// `scores` by head and place, sums of values to `out`.
template <int HEADS_AT_ONCE>
S3A_DEVICE void attend_group(Cache cache, u32 kv_head, Reach reach, const int *query, const int *bias, int shift,
                             int *scores, int *out) {
    const u32 thread = thread_of_warp();
    const u32 column = thread / 4, quad = thread % 4;
    const bool low = column & 1;
    // This thread's column of the queries.
    u32 own[KEY_STEPS][2];
#pragma unroll
    for (int step = 0; step < KEY_STEPS; step++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const u32 element = step * 32 + half * 16 + quad * 4;
            const bool there = column / 2 < HEADS_AT_ONCE && element < HEAD_SIZE;
            const int4 x = there ? *(const int4 *)(query + column / 2 * HEAD_SIZE + element) : int4{0, 0, 0, 0};
            own[step][half] = part_of(x, low);
        }
    }
    // Scores: this thread computes those of head `quad` at two positions of each block.
    const u8 *keys = cache.keys + kv_head * key_bytes(cache.ring) + thread * 16;
    const int *of_head = bias ? bias + quad * REACH : bias;
    int top = -0x7fffffff;
    for (u32 first = 0; first < reach.places; first += 16) {
        int a[4] = {0, 0, 0, 0}, b[4] = {0, 0, 0, 0};
#pragma unroll
        for (int step = 0; step < KEY_STEPS; step++) {
            const u8 *block = keys + (first / 16 * KEY_STEPS + step) * 1024;
            const uint4 high = *(const uint4 *)block, rest = *(const uint4 *)(block + 512);
            multiply(a, high, own[step][0], own[step][1]);
            multiply(b, rest, own[step][0], own[step][1]);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const u32 place = first + column + 8 * i;
            const u32 distance = distance_of(reach, cache.ring, place);
            if (quad < HEADS_AT_ONCE && distance < reach.count) {
                int z = rshift(joined(a, b, 2 * i), shift);
                if (bias) z += __ldg(of_head + distance);
                scores[quad * REACH + place] = z;
                top = z > top ? z : top;
            }
        }
    }
    // Weights: every thread continues with its own scores.
#pragma unroll
    for (int step = 4; step < 32; step <<= 1) {
        const int other = __shfl_xor_sync(S3A_ALL, top, step);
        top = other > top ? other : top;
    }
    int sum = 0;
    for (u32 place = column; place < reach.places; place += 8) {
        if (quad < HEADS_AT_ONCE && distance_of(reach, cache.ring, place) < reach.count) {
            const int w = (int)exp2neg(top - scores[quad * REACH + place], 0);
            scores[quad * REACH + place] = w;
            sum += w;
        }
    }
#pragma unroll
    for (int step = 4; step < 32; step <<= 1) sum += __shfl_xor_sync(S3A_ALL, sum, step);
    if (quad < HEADS_AT_ONCE) {
        const int g = bitlen((u32)sum) - 15;
        const int r = (1 << 29) / (sum >> g);
        // Places out of reach, up to the end of the last block of values, have the weight zero.
        for (u32 place = column; place < (reach.places + 31) / 32 * 32; place += 8) {
            const bool counts = place < reach.places && distance_of(reach, cache.ring, place) < reach.count;
            int *score = scores + quad * REACH + place;
            *score = counts ? (*score * r) >> (15 + g) : 0;
        }
    }
    __syncwarp();
    // Sums of values: strips of 16 elements; this thread has two of each strip for head `quad`.
    const u8 *values = cache.values + kv_head * value_bytes(cache.ring) + thread * 16;
#pragma unroll 2
    for (int strip = 0; strip < VALUE_STRIPS; strip++) {
        int a[4] = {0, 0, 0, 0}, b[4] = {0, 0, 0, 0};
        for (u32 first = 0; first < reach.places; first += 32) {
            const int *weights = scores + column / 2 * REACH + first + quad * 4;
            const bool there = column / 2 < HEADS_AT_ONCE;
            const int4 near = there ? *(const int4 *)weights : int4{0, 0, 0, 0};
            const int4 far = there ? *(const int4 *)(weights + 16) : int4{0, 0, 0, 0};
            const u32 b0 = weight_part_of(near, low), b1 = weight_part_of(far, low);
            const u8 *block = values + (first / 32 * VALUE_STRIPS + strip) * 1024;
            const uint4 high = *(const uint4 *)block, rest = *(const uint4 *)(block + 512);
            multiply_unsigned(a, high, b0, b1);
            multiply_unsigned(b, rest, b0, b1);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const u32 element = strip * 16 + column + 8 * i;
            if (quad < HEADS_AT_ONCE && element < HEAD_SIZE) {
                out[quad * HEAD_SIZE + element] = joined(a, b, 2 * i);
            }
        }
    }
    __syncwarp();
}

// Attention of all heads, `HEADS_AT_ONCE` together. Queries lie in the row of results, clamped; the
// output goes behind keys and values. `bias` is null or a table by head and distance.
template <int KV, int HEADS_AT_ONCE>
S3A_DEVICE void attend(int *row, Cache cache, Reach reach, const int *bias, int shift) {
    constexpr int PER_KEY = HEADS / KV;
    for (u32 head = 0; head < HEADS; head += HEADS_AT_ONCE) {
        attend_group<HEADS_AT_ONCE>(cache, head / PER_KEY, reach, row + head * HEAD_SIZE,
                                    bias ? bias + head * REACH : bias, shift, row + SCORES_AT,
                                    row + O_AT + head * HEAD_SIZE);
    }
}

// Self-attention at the lane's position.
S3A_DEVICE void self_attention(const Block &block, const Layer &layer, u32 number) {
    Lane &lane = block.fixed->lanes[warp_of_block()];
    int *row = block.y + warp_of_block() * YS;
    const u32 t = lane.job.position;
    const Cache cache = cache_of(lane.job.keys, number, KV_HEADS, lane.job.ring);
    for (u32 j = thread_of_warp(); j < INNER; j += 32) row[j] = clamp(row[j], -KV_MAX, KV_MAX);
    const u32 last = t % cache.ring;
    store(cache, last, row + INNER, row + INNER + KV_INNER);
    __syncwarp();
    const u32 window = S3A_WINDOW ? S3A_WINDOW : 0xffffffffu;
    const Reach reach = {last, t + 1 < window ? t + 1 : window, t + 1 < cache.ring ? t + 1 : cache.ring};
    attend<KV_HEADS, GROUP>(row, cache, reach, at<int>(block, layer.bias), (int)layer.score_shift);
}

#if S3A_CROSS
// Attention to c, whose keys and values the host has computed.
S3A_DEVICE void cross_attention(const Block &block, const Layer &layer, u32 number) {
    Lane &lane = block.fixed->lanes[warp_of_block()];
    int *row = block.y + warp_of_block() * YS;
    const u32 count = lane.job.latent_len;
    for (u32 j = thread_of_warp(); j < INNER; j += 32) row[j] = clamp(row[j], -KV_MAX, KV_MAX);
    __syncwarp();
    const Reach reach = {count - 1, count, count};
    attend<HEADS, 1>(row, cache_of(lane.job.cross, number, HEADS, (count + 31) / 32 * 32), reach, 0,
                     (int)layer.cross_shift);
}
#endif
