// The match input (section 3), by the warp of a lane: thread `k` looks up order `k`.

__device__ const u32 order_list[] = S3A_ORDER_LIST;
__device__ const u32 second_list[] = S3A_SECOND_LIST;
__device__ const u32 ngram_orders[] = S3A_NGRAM_ORDERS;
__device__ const u32 ngram_bits[] = S3A_NGRAM_BITS;

S3A_DEVICE u32 hash_step(u32 hash, u32 element) { return (hash ^ (element + 1)) * 2654435769u; }

// Hash of the last `order` elements; those before the start count as separators.
S3A_DEVICE u32 hash_of(const u16 *a, u32 length, u32 order) {
    u32 hash = 0;
    for (u32 j = 1; j <= order; j++) hash = hash_step(hash, j <= length ? a[length - j] : VOCAB);
    return hash;
}

// Looks up the tables at the lane's place. With `classes`, also finds which slots have a candidate.
S3A_DEVICE void look_up(Lane &lane, bool classes) {
    const u32 k = thread_of_warp(), length = lane.job.length;
    const u16 *a = (const u16 *)lane.job.elements;
    u32 pos = 0;
    bool verified = false;
    Found found = {0, -1, VOCAB, VOCAB};
    if (k < ORDERS && length >= order_list[k]) {
        const u32 order = order_list[k];
        found.index = (k << lane.job.bits) + (hash_of(a, length, order) >> (32 - lane.job.bits));
        const u32 entry = ((const u32 *)lane.job.tables)[found.index];
        if (entry != EMPTY) {
            pos = entry & 0xffffff;
            verified = true;
            for (u32 j = 1; j <= order; j++) verified = verified && a[pos - j] == a[length - j];
            if (verified) {
                found.hits = (int)(entry >> 24);
                found.follower = a[pos];
                if (SECONDS) found.second = ((const u16 *)lane.job.followers)[found.index];
            }
        }
    }
    if (k < ORDERS) lane.found[k] = found;
    if (classes) {
        const bool candidate = verified && found.follower != VOCAB;
        u32 cls = candidate ? 1 + (found.hits < 3 ? found.hits : 3) : 0;
        // How far the elements before the last order's context agree: thread `j` compares the j-th.
        if (ORDERS) {
            const int last = ORDERS - 1;
            const u32 order = order_list[last];
            const u32 there = __shfl_sync(S3A_ALL, candidate ? pos : 0, last);
            const bool same =
                there > order + k && length > order + k && a[there - order - 1 - k] == a[length - order - 1 - k];
            const u32 differ = ~__ballot_sync(S3A_ALL, same);
            const u32 len = differ ? (u32)__ffs((int)differ) - 1 : 32;
            if (k == last && candidate) cls += 4 * (len < 4 ? 0 : len < 16 ? 1 : len < 32 ? 2 : 3);
        }
        if (k < ORDERS) {
            lane.candidate[k] = found.follower;
            lane.cls[k] = (u8)cls;
        }
        __syncwarp();
        if (k < SECONDS) {
            const Found &first = lane.found[second_list[k]];
            const bool has = first.hits >= 0 && first.second != VOCAB;
            lane.candidate[ORDERS + k] = first.second;
            lane.cls[ORDERS + k] = has ? (u8)(1 + (first.hits < 3 ? first.hits : 3)) : 0;
        }
    }
    __syncwarp();
}

// Appends an element and enters it into the tables; `look_up` was called at this place before.
S3A_DEVICE void update(Lane &lane, u16 element) {
    const u32 k = thread_of_warp(), length = lane.job.length;
    if (k < ORDERS && length >= order_list[k]) {
        const Found found = lane.found[k];
        u32 hits = 0;
        u16 second = VOCAB;
        if (found.hits >= 0) {
            const bool same = found.follower == element;
            hits = same ? (found.hits < 255 ? found.hits + 1 : 255) : 0;
            second = same ? found.second : found.follower;
        }
        if (SECONDS) ((u16 *)lane.job.followers)[found.index] = second;
        ((u32 *)lane.job.tables)[found.index] = length | hits << 24;
    }
    if (k == 0) ((u16 *)lane.job.elements)[length] = element;
    __syncwarp();
    if (k == 0) lane.job.length = length + 1;
    __syncwarp();
}

// Lays in the referenced chunks and the separator before the lane's own tokens, but at most `most`
// elements of them.
S3A_DEVICE void lay_history(Lane &lane, u32 most) {
    const u16 *history = (const u16 *)lane.job.history;
    for (u32 i = lane.job.length; i < lane.job.history_len && most > 0; i++, most--) {
        look_up(lane, false);
        update(lane, history[i]);
    }
}

// The residual stream at the input (section 7): the sum of table rows, of which thread `k` finds
// the k-th.
S3A_DEVICE void input(const Block &block) {
    Lane &lane = block.fixed->lanes[warp_of_block()];
    const u32 k = thread_of_warp();
    const u16 *a = (const u16 *)lane.job.elements;
    look_up(lane, true);
    // Token, n-grams, then class and candidate of each slot.
    Table table = {0, 0};
    u32 number = 0;
    bool used = true;
    if (k == 0) {
        table = block.head->token;
        number = lane.job.length ? a[lane.job.length - 1] : VOCAB;
    } else if (k <= NGRAMS) {
        table = block.head->ngrams[k - 1];
        number = hash_of(a, lane.job.length, ngram_orders[k - 1]) >> (32 - ngram_bits[k - 1]);
    } else if (k <= NGRAMS + SLOTS) {
        table = block.head->classes[k - 1 - NGRAMS];
        number = lane.cls[k - 1 - NGRAMS];
    } else if (k <= NGRAMS + 2 * SLOTS) {
        const u32 slot = k - 1 - NGRAMS - SLOTS;
        table = block.head->matches[slot];
        used = lane.cls[slot] > 0;
        number = used ? lane.candidate[slot] : 0;
    } else {
        used = false;
    }
    constexpr u32 STRIDE = (WIDTH + 15) / 16 * 16;
    if (k < MAX_ROWS) {
        lane.rows[k] = used ? table.rows + number * STRIDE : 0;
        lane.row_scales[k] = used ? at<u16>(block, table.scales)[number] : 0;
    }
    __syncwarp();
    int *h = block.h + warp_of_block() * HS;
    const int shift = (int)block.head->embed_shift;
    for (u32 j = 4 * k; j < STRIDE; j += 128) {
        int sums[4] = {0, 0, 0, 0};
#pragma unroll 4
        for (u32 row = 0; row <= NGRAMS + 2 * SLOTS; row++) {
            const int scale = lane.row_scales[row];
            if (scale == 0) continue;
            const u32 quad = __ldg(at<u32>(block, lane.rows[row] + j));
#pragma unroll
            for (int i = 0; i < 4; i++) sums[i] += (int)(i8)(quad >> (8 * i)) * scale;
        }
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            int x = rshift(sums[i], shift);
            if (S3A_STEER && lane.job.steered && j + i < WIDTH) {
                x = clamp(x + ((const int *)lane.job.steer)[j + i], -H_MAX, H_MAX);
            }
            h[j + i] = x;
        }
    }
    __syncwarp();
}
