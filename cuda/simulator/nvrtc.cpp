// A libnvrtc.so.13 for the simulator, whose kernels are compiled already: it takes what the compiler would be given, sees that
// every include is among the headers, and answers with an image that says which file it is of.
#include <cstring>
#include <regex>
#include <set>
#include <string>

#define API extern "C" __attribute__((visibility("default"))) int

namespace {

// nvrtcResult, as nvrtc.h numbers them.
enum : int { kSuccess = 0, kCompilation = 6 };

struct Program {
  std::string name, text, log, image;
  std::set<std::string> headers;
};

int give_size(const std::string& text, size_t* bytes) { return *bytes = text.size() + 1, kSuccess; }
int give(const std::string& text, char* to) { return std::memcpy(to, text.c_str(), text.size() + 1), kSuccess; }

}  // namespace

// Of no release: nothing that is compiled by another takes this one's images for its own.
API nvrtcVersion(int* major, int* minor) { return *major = *minor = 0, kSuccess; }
API nvrtcGetNumSupportedArchs(int* count) { return *count = 1, kSuccess; }
API nvrtcGetSupportedArchs(int* architectures) { return *architectures = 80, kSuccess; }
extern "C" __attribute__((visibility("default"))) const char* nvrtcGetErrorString(int result) {
  return result == kCompilation ? "NVRTC_ERROR_COMPILATION" : "NVRTC_SUCCESS";
}

API nvrtcCreateProgram(void** program, const char* text, const char* name, int headers, const char* const* contents,
                       const char* const* names) {
  auto* created = new Program{name, text, "", "", {}};
  for (int i = 0; i < headers; ++i) {
    created->headers.insert(names[i]);
    created->text += contents[i];
  }
  return *program = created, kSuccess;
}
API nvrtcDestroyProgram(void** program) {
  delete static_cast<Program*>(*program);
  return *program = nullptr, kSuccess;
}
API nvrtcCompileProgram(void* compiled, int options, const char* const* values) {
  auto* program = static_cast<Program*>(compiled);
  program->image = "simulator: " + program->name;
  for (int i = 0; i < options; ++i) program->image += std::string(" ") + values[i];
  // The one include that is not among them is the simulator's own, which NVRTC does not see.
  const std::regex include("#include [\"<]([^\">]+)[\">]");
  for (std::sregex_iterator found(program->text.begin(), program->text.end(), include), end; found != end; ++found) {
    const std::string header = (*found)[1];
    if (header != "simulator/shim.hpp" && !program->headers.count(header))
      program->log = "could not open source file \"" + header + "\"";
  }
  return program->log.empty() ? kSuccess : kCompilation;
}
API nvrtcGetProgramLogSize(void* program, size_t* bytes) { return give_size(static_cast<Program*>(program)->log, bytes); }
API nvrtcGetProgramLog(void* program, char* to) { return give(static_cast<Program*>(program)->log, to); }
API nvrtcGetCUBINSize(void* program, size_t* bytes) { return give_size(static_cast<Program*>(program)->image, bytes); }
API nvrtcGetCUBIN(void* program, char* to) { return give(static_cast<Program*>(program)->image, to); }
API nvrtcGetPTXSize(void* program, size_t* bytes) { return give_size(static_cast<Program*>(program)->image, bytes); }
API nvrtcGetPTX(void* program, char* to) { return give(static_cast<Program*>(program)->image, to); }
