// Attention of one lane at one position, by its warp (section 6, steps 2 to 4).
//
// Keys lie as [head][eighth of the elements][position][8], values as [head][position][element], 16 bits each:
// both are read 16 bytes a thread, next to each other.

#define EIGHTHS (HEAD_SIZE / 8)
#define SHARE (HEADS / KV_HEADS)

S3A_DEVICE int low_half(u32 pair) { return (int)(i16)(pair & 0xffff); }
S3A_DEVICE int high_half(u32 pair) { return (int)pair >> 16; }

S3A_DEVICE void unpack(uint4 packed, int (&x)[8]) {
    x[0] = low_half(packed.x);
    x[1] = high_half(packed.x);
    x[2] = low_half(packed.y);
    x[3] = high_half(packed.y);
    x[4] = low_half(packed.z);
    x[5] = high_half(packed.z);
    x[6] = low_half(packed.w);
    x[7] = high_half(packed.w);
}

// Keys and values of one layer: those of all heads, then the values.
struct Cache {
    i16 *keys, *values;
    u32 ring;
};

S3A_DEVICE Cache cache_of(u64 place, u32 layer, u32 heads, u32 ring) {
    i16 *keys = (i16 *)place + (u64)layer * 2 * heads * ring * HEAD_SIZE;
    Cache cache = {keys, keys + (u64)heads * ring * HEAD_SIZE, ring};
    return cache;
}

// Sets the keys and values of a position in its place of the ring.
S3A_DEVICE void store(Cache cache, u32 place, const int *keys, const int *values) {
    for (u32 j = thread_of_warp(); j < KV_INNER; j += 32) {
        const u32 head = j / HEAD_SIZE, element = j % HEAD_SIZE;
        const u64 key = ((u64)(head * EIGHTHS + element / 8) * cache.ring + place) * 8 + element % 8;
        cache.keys[key] = (i16)clamp(keys[j], -KV_MAX, KV_MAX);
        const u64 value = ((u64)head * cache.ring + place) * HEAD_SIZE + element;
        cache.values[value] = (i16)clamp(values[j], -KV_MAX, KV_MAX);
    }
}

// Scores of some heads of one shared key for all positions, into `scores`; the largest of each head.
template <int HEADS_AT_ONCE>
S3A_DEVICE void score(Cache cache, u32 kv_head, u32 from, u32 count, const int *query, const int *bias,
                      u32 distance, int shift, int *scores, int (&top)[HEADS_AT_ONCE]) {
    const uint4 *keys = (const uint4 *)cache.keys + (u64)kv_head * EIGHTHS * cache.ring;
#pragma unroll
    for (int head = 0; head < HEADS_AT_ONCE; head++) top[head] = -0x7fffffff;
    for (u32 p = thread_of_warp(); p < count; p += 32) {
        u32 place = from + p;
        place = place >= cache.ring ? place - cache.ring : place;
        int sums[HEADS_AT_ONCE];
#pragma unroll
        for (int head = 0; head < HEADS_AT_ONCE; head++) sums[head] = 0;
#pragma unroll 4
        for (int eighth = 0; eighth < EIGHTHS; eighth++) {
            int key[8];
            unpack(keys[(u64)eighth * cache.ring + place], key);
#pragma unroll
            for (int head = 0; head < HEADS_AT_ONCE; head++) {
                const int4 *x = (const int4 *)(query + head * HEAD_SIZE + eighth * 8);
                const int4 a = x[0], b = x[1];
                sums[head] += a.x * key[0] + a.y * key[1] + a.z * key[2] + a.w * key[3] + b.x * key[4] +
                              b.y * key[5] + b.z * key[6] + b.w * key[7];
            }
        }
#pragma unroll
        for (int head = 0; head < HEADS_AT_ONCE; head++) {
            int z = rshift(sums[head], shift);
            if (bias) z += __ldg(bias + head * REACH + distance - p);
            scores[head * REACH + p] = z;
            top[head] = z > top[head] ? z : top[head];
        }
    }
}

// Attention weights in place of the scores of one head.
S3A_DEVICE void weigh(int *scores, u32 count, int top) {
    top = warp_max(top);
    int sum = 0;
    for (u32 p = thread_of_warp(); p < count; p += 32) {
        int w = (int)exp2neg(top - scores[p], 0);
        scores[p] = w;
        sum += w;
    }
    sum = warp_sum(sum);
    const int g = bitlen((u32)sum) - 15;
    const int r = (1 << 29) / (sum >> g);
    for (u32 p = thread_of_warp(); p < count; p += 32) {
        scores[p] = (scores[p] * r) >> (15 + g);
    }
}

// Sums of values under the weights of some heads, into `out`. Each thread has eight elements of every
// so-and-so-many-th position.
template <int HEADS_AT_ONCE>
S3A_DEVICE void add_values(Cache cache, u32 kv_head, u32 from, u32 count, const int *weights, int *out) {
    constexpr u32 WAYS = 32 / EIGHTHS;
    const u32 thread = thread_of_warp();
    const u32 way = thread / EIGHTHS, eighth = thread % EIGHTHS;
    const uint4 *values = (const uint4 *)cache.values + (u64)kv_head * cache.ring * EIGHTHS + eighth;
    int sums[HEADS_AT_ONCE][8];
#pragma unroll
    for (int head = 0; head < HEADS_AT_ONCE; head++) {
#pragma unroll
        for (int i = 0; i < 8; i++) sums[head][i] = 0;
    }
    if (way < WAYS) {
#pragma unroll 2
        for (u32 p = way; p < count; p += WAYS) {
            u32 place = from + p;
            place = place >= cache.ring ? place - cache.ring : place;
            int value[8];
            unpack(values[(u64)place * EIGHTHS], value);
#pragma unroll
            for (int head = 0; head < HEADS_AT_ONCE; head++) {
                const int weight = weights[head * REACH + p];
#pragma unroll
                for (int i = 0; i < 8; i++) sums[head][i] += weight * value[i];
            }
        }
    }
#pragma unroll
    for (int head = 0; head < HEADS_AT_ONCE; head++) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            int sum = sums[head][i];
            if ((EIGHTHS & (EIGHTHS - 1)) == 0) {
#pragma unroll
                for (u32 step = EIGHTHS; step < 32; step <<= 1) sum += __shfl_xor_sync(S3A_ALL, sum, step);
            } else {
                const int own = sum;
#pragma unroll
                for (u32 other = 1; other < WAYS; other++) {
                    sum += __shfl_sync(S3A_ALL, own, (thread + other * EIGHTHS) & 31);
                }
            }
            if (thread < EIGHTHS) out[head * HEAD_SIZE + eighth * 8 + i] = sum;
        }
    }
}

// Attention of all heads. Queries lie in the row of results, clamped; the output goes behind keys and values.
// `first` is the first position attended to, `bias` null or a table by head and distance.
template <int KV, int HEADS_AT_ONCE>
S3A_DEVICE void attend(int *row, Cache cache, u32 from, u32 count, const int *bias, u32 distance, int shift) {
    constexpr int PER_KEY = HEADS / KV;
    int *scores = row + SCORES_AT;
    for (u32 kv_head = 0; kv_head < KV; kv_head++) {
        for (u32 head = kv_head * PER_KEY; head < (kv_head + 1) * PER_KEY; head += HEADS_AT_ONCE) {
            int top[HEADS_AT_ONCE];
            const int *own = bias ? bias + head * REACH : bias;
            score<HEADS_AT_ONCE>(cache, kv_head, from, count, row + head * HEAD_SIZE, own, distance, shift,
                                 scores, top);
            __syncwarp();
#pragma unroll
            for (int i = 0; i < HEADS_AT_ONCE; i++) weigh(scores + i * REACH, count, top[i]);
            __syncwarp();
            add_values<HEADS_AT_ONCE>(cache, kv_head, from, count, scores, row + O_AT + head * HEAD_SIZE);
            __syncwarp();
        }
    }
}

// Self-attention at position `t`.
S3A_DEVICE void self_attention(const Block &block, const Layer &layer, u32 number) {
    Lane &lane = block.fixed->lanes[warp_of_block()];
    int *row = block.y + warp_of_block() * YS;
    const u32 t = lane.job.position;
    const Cache cache = cache_of(lane.job.keys, number, KV_HEADS, lane.job.ring);
    for (u32 j = thread_of_warp(); j < INNER; j += 32) row[j] = clamp(row[j], -KV_MAX, KV_MAX);
    store(cache, t % cache.ring, row + INNER, row + INNER + KV_INNER);
    __syncwarp();
    // The ring holds the window, or all of the chunk.
    const u32 count = t + 1 < cache.ring ? t + 1 : cache.ring;
    const u32 first = t + 1 - count;
    attend<KV_HEADS, GROUP>(row, cache, first % cache.ring, count, at<int>(block, layer.bias), t - first,
                            (int)layer.score_shift);
}

#if S3A_CROSS
// Attention to c, whose keys and values the host has computed.
S3A_DEVICE void cross_attention(const Block &block, const Layer &layer, u32 number) {
    Lane &lane = block.fixed->lanes[warp_of_block()];
    int *row = block.y + warp_of_block() * YS;
    const u32 count = lane.job.latent_len;
    for (u32 j = thread_of_warp(); j < INNER; j += 32) row[j] = clamp(row[j], -KV_MAX, KV_MAX);
    __syncwarp();
    attend<HEADS, 1>(row, cache_of(lane.job.cross, number, HEADS, count), 0, count, 0, 0,
                     (int)layer.cross_shift);
}
#endif
