// From scores to a token (sections 7 and 9), by the warp of a lane.

// The interval of a symbol.
struct Share {
    u32 symbol;
    u64 cum;
    u32 slot;
};

// Adds to the scores what copy gates and c contribute.
S3A_DEVICE void adjust(const Block &block, Lane &lane, int *z) {
    const u32 thread = thread_of_warp();
    // `steer` has parts for the input, the gains of all layers, the scores, and the biases of copy
    // gates.
    const int *steer = (const int *)lane.job.steer + WIDTH + LAYERS * FF;
    const bool steered = S3A_STEER && lane.job.steered;
    if (steered) {
        for (u32 v = thread; v < VOCAB; v += 32) z[v] = clamp(z[v] + steer[v], -H_MAX, H_MAX);
        __syncwarp();
    }
    if (S3A_COPY && thread == 0) {
        const int *bias = steered ? steer + VOCAB : at<int>(block, block.set->copy_bias);
        for (u32 slot = 0; slot < SLOTS; slot++) {
            const u32 cls = lane.cls[slot];
            if (cls > 0) {
                int *place = z + lane.candidate[slot];
                *place = clamp(*place + lane.gates[slot] + bias[slot * CLASSES + cls], -H_MAX, H_MAX);
            }
        }
    }
    __syncwarp();
}

// The bias that learns within a chunk (section 7).
#define BIAS_MAX (1 << 28)

// Adds what the bias has learned to the scores.
S3A_DEVICE void add_bias(const Block &block, const Lane &lane, int *z) {
    if (!S3A_ADAPT || block.set->adapt == 0) return;
    const int *learned = (const int *)lane.job.learned;
    for (u32 v = thread_of_warp(); v < VOCAB; v += 32) z[v] += ~learned[v] >> 8;
    __syncwarp();
}

// Lets the bias learn that `symbol` came under these slots.
S3A_DEVICE void learn(const Block &block, const Lane &lane, const int *slots, u64 total, u32 symbol) {
    const u32 rate = block.set->adapt;
    if (!S3A_ADAPT || rate == 0) return;
    const u32 high = (u32)(total >> 32);
    const u32 digits = high ? 64 - (u32)__clz((int)high) : 32 - (u32)__clz((int)total);
    const u32 of_rate = 32 - (u32)__clz((int)rate);
    const u32 wanted = digits + 7 - of_rate, shift = wanted < 31 ? wanted : 31;
    const u32 factor = (u32)(((u64)rate << (7 + shift)) / total);
    int *learned = (int *)lane.job.learned;
    for (u32 v = thread_of_warp(); v < VOCAB; v += 32) {
        int b = ~learned[v] - (int)((((u32)slots[v] >> 7) * factor) >> shift);
        b = b > -BIAS_MAX ? b : -BIAS_MAX;
        if (v == symbol) b = b + (int)rate < BIAS_MAX ? b + (int)rate : BIAS_MAX;
        learned[v] = ~b;
    }
    __syncwarp();
}

// Symbols of a thread's part of the alphabet.
#define PART_LEN ((VOCAB + 31) / 32)

// Replaces the scores by slots, and returns the sum of the slots up to the end of each thread's
// part.
S3A_DEVICE u64 slots_of(int *z) {
    const u32 thread = thread_of_warp();
    int top = -0x7fffffff;
    for (u32 v = thread; v < VOCAB; v += 32) top = z[v] > top ? z[v] : top;
    top = warp_max(top);
    // Every thread begins at another place of its part, so that no two threads use the same memory
    // bank.
    const u32 first = thread * PART_LEN;
    u32 place = thread % PART_LEN;
    u64 sum = 0;
    for (u32 i = 0; i < PART_LEN; i++) {
        const u32 v = first + place;
        if (v < VOCAB) {
            const u32 slot = exp2neg(top - z[v], 7) + 1;
            z[v] = (int)slot;
            sum += slot;
        }
        place = place + 1 == PART_LEN ? 0 : place + 1;
    }
    __syncwarp();
    return warp_sums(sum);
}

// The interval that holds `target`, which is below the sum of all slots; or that of `symbol`, if it
// is a symbol.
S3A_DEVICE Share share_of(const int *slots, u64 sums, u64 target, u32 symbol) {
    const u32 thread = thread_of_warp();
    const bool known = symbol < VOCAB;
    const u32 ends = __ballot_sync(S3A_ALL, known ? (thread + 1) * PART_LEN > symbol : sums > target);
    const u32 part = (u32)__ffs((int)ends) - 1;
    const u64 before = __shfl_sync(S3A_ALL, sums, (part + 31) & 31);
    Share share = {0, part ? before : 0, 0};
    const u32 end = (part + 1) * PART_LEN < VOCAB ? (part + 1) * PART_LEN : VOCAB;
    for (u32 first = part * PART_LEN; first < end; first += 32) {
        const u32 v = first + thread;
        const u32 slot = v < end ? (u32)slots[v] : 0;
        const u32 upto = warp_sums(slot);
        const u32 hit = __ballot_sync(S3A_ALL, known ? v == symbol : share.cum + upto > target);
        if (hit) {
            const u32 who = (u32)__ffs((int)hit) - 1;
            share.symbol = first + who;
            share.slot = __shfl_sync(S3A_ALL, slot, who);
            share.cum += __shfl_sync(S3A_ALL, upto, who) - share.slot;
            break;
        }
        share.cum += __shfl_sync(S3A_ALL, upto, 31);
    }
    return share;
}

// Bytes beyond the payload read as zero.
S3A_DEVICE u64 next_byte(Lane &lane, u32 &taken) {
    const u64 byte = taken < lane.job.payload_len ? ((const u8 *)lane.job.payload)[taken] : 0;
    taken += taken < lane.job.payload_len;
    return byte;
}

// Codes one token of a lane: decodes it, or writes the interval of the known token.
S3A_DEVICE void code_token(const Block &block, Lane &lane, int *z) {
    const u32 thread = thread_of_warp();
    adjust(block, lane, z);
    add_bias(block, lane, z);
    const u64 sums = slots_of(z);
    const u64 total = __shfl_sync(S3A_ALL, sums, 31);
    const u32 position = lane.job.position;
    const bool known = lane.job.known != UNKNOWN;
    Share share;
    u32 status = RUNNING;
    if (known) {
        const u32 symbol = ((const u16 *)lane.job.tokens)[position];
        share = share_of(z, sums, 0, symbol);
        if (thread == 0) {
            u64 *out = (u64 *)lane.job.shares + 2 * (u64)position;
            out[0] = share.cum | (u64)share.slot << 40;
            out[1] = total;
        }
        status = position + 1 == lane.job.known ? DONE : RUNNING;
    } else {
        u64 code = lane.job.code, range = lane.job.range;
        if (code >= range) {
            __syncwarp();
            if (thread == 0) {
                lane.job.status = DAMAGED;
                lane.running = 0;
            }
            __syncwarp();
            return;
        }
        const u64 r = range / total;
        u64 target = code / r;
        target = target < total ? target : total - 1;
        share = share_of(z, sums, target, UNKNOWN);
        const u64 offset = share.cum * r;
        code -= offset;
        range = share.cum + share.slot == total ? range - offset : share.slot * r;
        u32 taken = lane.job.taken;
        while (range < 1ull << 56) {
            code = code << 8 | next_byte(lane, taken);
            range <<= 8;
        }
        const u32 bytes = lane.job.bytes + at<u8>(block, block.head->lengths)[share.symbol];
        if (bytes == lane.job.raw_len) {
            status = DONE;
        } else if (bytes > lane.job.raw_len || position + 1 >= MAX_TOKENS) {
            status = DAMAGED;
        }
        __syncwarp();
        if (thread == 0) {
            lane.job.code = code;
            lane.job.range = range;
            lane.job.taken = taken;
            lane.job.bytes = bytes;
            ((u16 *)lane.job.tokens)[position] = (u16)share.symbol;
        }
    }
    learn(block, lane, z, total, share.symbol);
    __syncwarp();
    if (thread == 0) {
        lane.job.position = position + 1;
        lane.job.status = status;
        lane.running = status == RUNNING;
    }
    __syncwarp();
    if (status == RUNNING) update(lane, (u16)share.symbol);
}
