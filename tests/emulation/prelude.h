// The names that a CUDA compiler supplies, for the host's: every thread of a block is a fiber, barriers and
// the collective operations of a warp are real, and a fiber runs until it meets one. `S3A_EMULATED_ORDER`
// chooses the order in which fibers run: `forward`, `reverse` or a number that shuffles them anew at every
// round. Results must not depend on it; where a barrier is missing, they do.
#pragma once
#define S3A_EMULATED 1
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>
#include <sys/mman.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif
#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
struct Dim { unsigned x; };

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define S3A_DEVICE static inline

namespace emulation {

constexpr unsigned WARP = 32;
constexpr size_t STACK = 256 << 10;

struct Fiber {
    void *sp = nullptr;
    unsigned thread = 0;
    // What it waits for: a generation that must pass.
    const unsigned long *generation = nullptr;
    unsigned long waits_for = 0;
    bool done = false;
};

// A meeting of fibers: all must come to the same place.
struct Meeting {
    unsigned members = 0, arrived = 0;
    unsigned long generation = 0;
    const char *what = nullptr;
    unsigned long any[2] = {0, 0};
};

struct Warp {
    Meeting meeting;
    unsigned long long value[2][WARP];
    unsigned a[2][WARP][4], b[2][WARP][2];
};

struct State {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    Meeting block;
    Fiber *current = nullptr;
    unsigned block_number = 0;
    unsigned char *shared = nullptr;
    void *main_sp = nullptr;
    void (*kernel)(void *, void *, void *, void *, unsigned long long) = nullptr;
    void *arguments[4];
    unsigned long long last = 0;
};
static State state;

[[noreturn]] static inline void fail(const char *what) {
    std::fprintf(stderr, "emulation: %s (block %u, thread %u)\n", what, state.block_number,
                 state.current ? state.current->thread : 0);
    std::abort();
}

extern "C" void emulation_switch(void **save, void *to) __attribute__((visibility("hidden")));
#if defined(__x86_64__)
asm(R"(
.text
.hidden emulation_switch
.globl emulation_switch
.type emulation_switch,@function
emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulation_switch,.-emulation_switch
)");
static void *fresh(unsigned char *top, void (*entry)()) {
    void **sp = (void **)top;
    *--sp = nullptr;
    *--sp = (void *)entry;
    for (int i = 0; i < 6; i++) *--sp = nullptr;
    return sp;
}
#elif defined(__aarch64__)
asm(R"(
.text
.hidden emulation_switch
.globl emulation_switch
.type emulation_switch,%function
emulation_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size emulation_switch,.-emulation_switch
)");
static void *fresh(unsigned char *top, void (*entry)()) {
    void **sp = (void **)(top - 160);
    std::memset(sp, 0, 160);
    sp[11] = (void *)entry;
    return sp;
}
#else
static ucontext_t contexts[4096];
static unsigned used_contexts;
extern "C" void emulation_switch(void **save, void *to) {
    ucontext_t here;
    *save = &here;
    swapcontext(&here, (ucontext_t *)to);
}
static void *fresh(unsigned char *top, void (*entry)()) {
    ucontext_t *context = &contexts[used_contexts++ % 4096];
    getcontext(context);
    context->uc_stack.ss_sp = top - STACK;
    context->uc_stack.ss_size = STACK;
    context->uc_link = nullptr;
    makecontext(context, entry, 0);
    return context;
}
#endif

static inline void pause() { emulation_switch(&state.current->sp, state.main_sp); }

static void entry() {
    void **a = state.arguments;
    state.kernel(a[0], a[1], a[2], a[3], state.last);
    state.current->done = true;
    pause();
    fail("a thread went on after its end");
}

// Comes to a meeting; the generation in which it took place. Its parity tells which half of the exchanged
// values belongs to it: nobody can be two meetings ahead.
static inline unsigned long meet(Meeting &meeting, const char *what) {
    const unsigned long generation = meeting.generation;
    if (meeting.arrived == 0) {
        meeting.what = what;
    } else if (std::strcmp(meeting.what, what) != 0) {
        fail("threads of a group came to different operations");
    }
    if (++meeting.arrived == meeting.members) {
        meeting.arrived = 0;
        meeting.generation++;
        meeting.any[meeting.generation & 1] = 0;
    } else {
        state.current->generation = &meeting.generation;
        state.current->waits_for = generation;
        pause();
    }
    return generation;
}

static inline Warp &warp() { return state.warps[state.current->thread / WARP]; }
static inline unsigned lane() { return state.current->thread % WARP; }

template <typename T>
static inline const unsigned long long *exchange(T value, const char *what) {
    Warp &mine = warp();
    mine.value[mine.meeting.generation & 1][lane()] = (unsigned long long)value;
    return mine.value[meet(mine.meeting, what) & 1];
}

struct Random {
    unsigned long long x;
    unsigned below(unsigned n) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        return (unsigned)((x >> 33) % n);
    }
};

static void run_block(std::vector<unsigned> &order, Random *shuffle) {
    size_t left = state.fibers.size();
    while (left > 0) {
        if (shuffle) {
            for (size_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[shuffle->below(i)]);
        }
        bool moved = false;
        for (unsigned thread : order) {
            Fiber &fiber = state.fibers[thread];
            if (fiber.done || (fiber.generation && *fiber.generation == fiber.waits_for)) continue;
            fiber.generation = nullptr;
            state.current = &fiber;
            emulation_switch(&state.main_sp, fiber.sp);
            moved = true;
            left -= fiber.done;
        }
        if (!moved) fail("threads wait for one that never comes");
    }
    state.current = nullptr;
}

// Runs `kernel` in `grid` blocks of `threads` threads with `shared` bytes of shared memory, garbage at first.
static void launch(void *kernel, unsigned grid, unsigned threads, size_t shared, void **arguments,
                   unsigned long long last) {
    static std::mutex one_at_a_time;
    static unsigned char *stacks = nullptr;
    std::lock_guard<std::mutex> guard(one_at_a_time);
    if (!stacks) {
        void *made = mmap(nullptr, 1024 * STACK, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (made == MAP_FAILED) fail("no memory for stacks");
        stacks = (unsigned char *)made;
    }
    const char *wanted = std::getenv("S3A_EMULATED_ORDER");
    std::vector<unsigned> order(threads);
    for (unsigned i = 0; i < threads; i++) {
        order[i] = wanted && !std::strcmp(wanted, "reverse") ? threads - 1 - i : i;
    }
    Random random{wanted ? std::strtoull(wanted, nullptr, 10) : 0};
    state.kernel = (decltype(state.kernel))kernel;
    std::memcpy(state.arguments, arguments, sizeof state.arguments);
    state.last = last;
    for (unsigned block = 0; block < grid; block++) {
        state.block_number = block;
        state.fibers.assign(threads, Fiber{});
        state.warps.assign(threads / WARP, Warp{});
        state.block = Meeting{};
        state.block.members = threads;
        for (Warp &warp : state.warps) warp.meeting.members = WARP;
        for (unsigned i = 0; i < threads; i++) {
            state.fibers[i].thread = i;
            state.fibers[i].sp = fresh(stacks + (i + 1) * STACK, entry);
        }
#ifdef __SANITIZE_ADDRESS__
        // Fibers end within their functions, whose frames the sanitizer still knows.
        __asan_unpoison_memory_region(stacks, 1024 * STACK);
#endif
        state.shared = (unsigned char *)std::malloc(shared);
        std::memset(state.shared, 0xa5, shared);
        run_block(order, random.x ? &random : nullptr);
        std::free(state.shared);
    }
}

}  // namespace emulation

#define threadIdx (Dim{emulation::state.current->thread})
#define blockIdx (Dim{emulation::state.block_number})

static inline unsigned char *shared_memory() { return emulation::state.shared; }
static inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned)x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
template <typename T>
static inline T __ldg(const T *place) { return *place; }

static inline void __syncthreads() { emulation::meet(emulation::state.block, "__syncthreads"); }
static inline int __syncthreads_or(int any) {
    emulation::Meeting &block = emulation::state.block;
    const unsigned long generation = block.generation;
    if (any) block.any[generation & 1] = 1;
    emulation::meet(block, "__syncthreads_or");
    return block.any[generation & 1] != 0;
}
static inline void __syncwarp() { emulation::meet(emulation::warp().meeting, "__syncwarp"); }
template <typename T>
static inline T __shfl_sync(unsigned, T value, int from) {
    return (T)emulation::exchange(value, "__shfl_sync")[from & 31];
}
template <typename T>
static inline T __shfl_xor_sync(unsigned, T value, int mask) {
    return (T)emulation::exchange(value, "__shfl_xor_sync")[(emulation::lane() ^ mask) & 31];
}
template <typename T>
static inline T __shfl_up_sync(unsigned, T value, unsigned by) {
    const unsigned lane = emulation::lane();
    return (T)emulation::exchange(value, "__shfl_up_sync")[lane < by ? lane : lane - by];
}
static inline unsigned __ballot_sync(unsigned, bool holds) {
    const unsigned long long *all = emulation::exchange(holds, "__ballot_sync");
    unsigned bits = 0;
    for (unsigned i = 0; i < emulation::WARP; i++) bits |= (unsigned)(all[i] != 0) << i;
    return bits;
}

// m16n8k32 of bytes, with the fragments where the instruction has them; those of B with or without signs.
namespace emulation {
template <typename B>
static inline void multiply(int (&acc)[4], uint4 a, unsigned b0, unsigned b1) {
    Warp &mine = warp();
    const unsigned long parity = mine.meeting.generation & 1;
    const unsigned fragment[4] = {a.x, a.y, a.z, a.w};
    std::memcpy(mine.a[parity][lane()], fragment, sizeof fragment);
    mine.b[parity][lane()][0] = b0;
    mine.b[parity][lane()][1] = b1;
    meet(mine.meeting, sizeof(B) == 1 && (B)-1 < 0 ? "multiply" : "multiply_unsigned");
    for (unsigned i = 0; i < 4; i++) {
        const unsigned row = lane() / 4 + (i / 2) * 8, column = lane() % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 32; k++) {
            // Registers 0 and 2 are of the first eight rows; 2 and 3 of the second 16 columns of A.
            const unsigned quarter = k % 16 / 4, half = k / 16;
            const unsigned in_a = mine.a[parity][row % 8 * 4 + quarter][row / 8 + 2 * half];
            const unsigned in_b = mine.b[parity][column * 4 + quarter][half];
            // Sums wrap around, as the instruction's do: what is garbage is not looked at.
            const unsigned product = (unsigned)((int)(signed char)(in_a >> (8 * (k % 4))) * (int)(B)(in_b >> (8 * (k % 4))));
            acc[i] = (int)((unsigned)acc[i] + product);
        }
    }
}
}  // namespace emulation
static inline void multiply(int (&acc)[4], uint4 a, unsigned b0, unsigned b1) {
    emulation::multiply<signed char>(acc, a, b0, b1);
}
static inline void multiply_unsigned(int (&acc)[4], uint4 a, unsigned b0, unsigned b1) {
    emulation::multiply<unsigned char>(acc, a, b0, b1);
}

extern "C" void emulated_launch(void *kernel, unsigned grid, unsigned threads, size_t shared, void **arguments,
                                unsigned long long last) {
    emulation::launch(kernel, grid, threads, shared, arguments, last);
}
