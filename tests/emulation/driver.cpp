// A library with the names of the CUDA driver whose one device is the host. It fails where it is told to:
// `S3A_EMULATED_MEMORY` is its memory in bytes, `S3A_EMULATED_FAIL=N` loses the device at the N-th launch, and
// `S3A_EMULATED_NONE` is a driver without a device. Each launch adds a line to the file `S3A_EMULATED_LOG`: its blocks.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <mutex>
#include <string>
#include <unistd.h>

namespace {
constexpr int INVALID = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, BAD_IMAGE = 200, LOST = 719;

std::mutex lock;
std::map<unsigned long long, size_t> blocks;
size_t used = 0;
std::atomic<unsigned> launches{0};
std::atomic<bool> lost{false};

size_t number(const char *name, size_t otherwise) {
    const char *text = std::getenv(name);
    return text ? std::strtoull(text, nullptr, 10) : otherwise;
}
size_t memory() { return number("S3A_EMULATED_MEMORY", size_t(1) << 30); }

// Whether `len` bytes from `place` on lie in one block.
bool inside(unsigned long long place, size_t len) {
    auto after = blocks.upper_bound(place);
    if (after == blocks.begin()) return false;
    auto block = std::prev(after);
    return place + len <= block->first + block->second;
}

struct Function {
    void *kernel;
    void (*launch)(void *, unsigned, unsigned, size_t, void **, unsigned long long);
};
}  // namespace

extern "C" {
int cuInit(unsigned) { return std::getenv("S3A_EMULATED_NONE") ? NO_DEVICE : 0; }
int cuDriverGetVersion(int *version) { return *version = 12000, 0; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal == 0 ? 0 : INVALID; }
int cuDeviceGetName(char *name, int len, int) { return std::snprintf(name, len, "emulated"), 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int) { return *bytes = memory(), 0; }
int cuDeviceGetAttribute(int *value, int attribute, int) {
    switch (attribute) {
        case 16: *value = (int)number("S3A_EMULATED_PROCESSORS", 2); return 0;
        case 75: *value = 8; return 0;
        case 76: *value = 0; return 0;
        case 97: *value = (int)number("S3A_EMULATED_SHARED", 99 << 10); return 0;
        default: return INVALID;
    }
}
int cuDevicePrimaryCtxRetain(void **context, int) { return *context = (void *)1, 0; }
int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
int cuCtxSetCurrent(void *) { return 0; }
int cuCtxSynchronize() { return lost ? LOST : 0; }
int cuMemGetInfo_v2(size_t *free, size_t *total) {
    std::lock_guard<std::mutex> guard(lock);
    *total = memory();
    *free = *total > used ? *total - used : 0;
    return lost ? LOST : 0;
}
int cuMemAlloc_v2(unsigned long long *place, size_t len) {
    std::lock_guard<std::mutex> guard(lock);
    if (lost) return LOST;
    if (len == 0) return INVALID;
    // A tenth is lost to fragmentation, which the free bytes do not tell.
    if (used + len > memory() - memory() / 10) return OUT_OF_MEMORY;
    void *made = std::aligned_alloc(256, (len + 255) / 256 * 256);
    if (!made) return OUT_OF_MEMORY;
    std::memset(made, 0x5a, len);
    *place = (unsigned long long)made;
    blocks[*place] = len;
    used += len;
    return 0;
}
int cuMemFree_v2(unsigned long long place) {
    std::lock_guard<std::mutex> guard(lock);
    auto block = blocks.find(place);
    if (block == blocks.end()) return INVALID;
    used -= block->second;
    blocks.erase(block);
    std::free((void *)place);
    return 0;
}
int cuMemcpyHtoD_v2(unsigned long long to, const void *from, size_t len) {
    std::lock_guard<std::mutex> guard(lock);
    if (lost) return LOST;
    if (!inside(to, len)) return INVALID;
    std::memcpy((void *)to, from, len);
    return 0;
}
int cuMemcpyDtoH_v2(void *to, unsigned long long from, size_t len) {
    std::lock_guard<std::mutex> guard(lock);
    if (lost) return LOST;
    if (!inside(from, len)) return INVALID;
    std::memcpy(to, (const void *)from, len);
    return 0;
}
int cuMemsetD8_v2(unsigned long long to, unsigned char value, size_t len) {
    std::lock_guard<std::mutex> guard(lock);
    if (lost) return LOST;
    if (!inside(to, len)) return INVALID;
    std::memset((void *)to, value, len);
    return 0;
}
int cuModuleLoadData(void **module, const void *image) {
    // The length is in the file's section headers, which are its end.
    const unsigned char *bytes = (const unsigned char *)image;
    if (std::memcmp(bytes, "\x7f" "ELF", 4) != 0) return BAD_IMAGE;
    unsigned long long sections;
    unsigned short size, count;
    std::memcpy(&sections, bytes + 0x28, 8);
    std::memcpy(&size, bytes + 0x3a, 2);
    std::memcpy(&count, bytes + 0x3c, 2);
    char path[] = "/tmp/s3a-emulation-XXXXXX";
    const int file = mkstemp(path);
    if (file < 0) return BAD_IMAGE;
    const size_t len = sections + (size_t)size * count;
    const bool whole = write(file, bytes, len) == (ssize_t)len;
    close(file);
    *module = whole ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
    if (!*module) std::fprintf(stderr, "%s\n", dlerror());
    unlink(path);
    return *module ? 0 : BAD_IMAGE;
}
int cuModuleUnload(void *module) { return dlclose(module), 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
    Function found = {dlsym(module, name), nullptr};
    found.launch = (decltype(found.launch))dlsym(module, "emulated_launch");
    if (!found.kernel || !found.launch) return 500;
    *function = new Function(found);
    return 0;
}
int cuFuncSetAttribute(void *, int, int) { return 0; }
int cuLaunchKernel(void *handle, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned,
                   unsigned shared, void *, void **arguments, void **) {
    if (lost) return LOST;
    if (x == 0 || y != 1 || z != 1 || threads > 1024) return INVALID;
    if (shared > number("S3A_EMULATED_SHARED", 99 << 10)) return INVALID;
    if (++launches == number("S3A_EMULATED_FAIL", 0)) {
        lost = true;
        return LOST;
    }
    const Function &function = *(Function *)handle;
    void *places[4];
    for (int i = 0; i < 4; i++) std::memcpy(&places[i], arguments[i], sizeof(void *));
    unsigned long long last;
    std::memcpy(&last, arguments[4], sizeof last);
    function.launch(function.kernel, x, threads, shared, places, last);
    if (const char *log = std::getenv("S3A_EMULATED_LOG")) {
        // Short lines of several processes do not mix.
        if (std::FILE *file = std::fopen(log, "a")) {
            std::fprintf(file, "%u\n", x);
            std::fclose(file);
        }
    }
    return 0;
}
int cuGetErrorString(int error, const char **text) {
    *text = error == OUT_OF_MEMORY ? "out of memory" : error == LOST ? "unspecified launch failure" : "emulated";
    return 0;
}
}
