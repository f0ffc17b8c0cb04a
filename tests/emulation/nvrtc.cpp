// A library with the names of NVRTC that compiles with the host's compiler: what it calls a cubin is a shared
// object with the kernel and the emulation of a device around it.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <unistd.h>

struct Program {
    std::string source, log, image;
};

extern "C" {
int nvrtcVersion(int *major, int *minor) {
    *major = 0;
    *minor = 1;
    return 0;
}
int nvrtcCreateProgram(void **program, const char *source, const char *, int, const char *const *,
                       const char *const *) {
    *program = new Program{source, "", ""};
    return 0;
}
int nvrtcDestroyProgram(void **program) {
    delete (Program *)*program;
    *program = nullptr;
    return 0;
}
int nvrtcCompileProgram(void *handle, int count, const char *const *options) {
    Program &program = *(Program *)handle;
    char folder[] = "/tmp/s3a-emulation-XXXXXX";
    if (!mkdtemp(folder)) return 6;
    const std::string at = folder;
    {
        std::ofstream file(at + "/kernel.cpp");
        file << "#include \"" S3A_PRELUDE "\"\n" << program.source;
    }
    const char *more = std::getenv("S3A_EMULATED_FLAGS");
    // The sanitizer that this process may run with is not for the compiler.
    std::string command = "LD_PRELOAD= c++ -std=c++20 -shared -fPIC -O2 -fno-strict-aliasing -w ";
    command += more ? more : "";
    for (int i = 0; i < count; i++) {
        if (!std::strncmp(options[i], "-D", 2)) command += std::string(" '") + options[i] + "'";
    }
    command += " -o " + at + "/kernel.so " + at + "/kernel.cpp > " + at + "/log 2>&1";
    const int failed = std::system(command.c_str());
    auto read = [](const std::string &path) {
        std::ifstream file(path, std::ios::binary);
        return std::string(std::istreambuf_iterator<char>(file), {});
    };
    program.log = read(at + "/log");
    program.image = read(at + "/kernel.so");
    std::system(("rm -r " + at).c_str());
    return failed ? 6 : 0;
}
int nvrtcGetProgramLogSize(void *program, size_t *size) {
    *size = ((Program *)program)->log.size() + 1;
    return 0;
}
int nvrtcGetProgramLog(void *program, char *log) {
    std::strcpy(log, ((Program *)program)->log.c_str());
    return 0;
}
int nvrtcGetCUBINSize(void *program, size_t *size) {
    *size = ((Program *)program)->image.size();
    return 0;
}
int nvrtcGetCUBIN(void *program, char *image) {
    const std::string &from = ((Program *)program)->image;
    std::memcpy(image, from.data(), from.size());
    return 0;
}
const char *nvrtcGetErrorString(int error) { return error ? "NVRTC_ERROR_COMPILATION" : "NVRTC_SUCCESS"; }
}
