// A fuzzer's target, for tests that call it with inputs of their own.
#ifndef QUIRE_BASE_TESTING_FUZZ_TARGET_H_
#define QUIRE_BASE_TESTING_FUZZ_TARGET_H_

#include <cstddef>
#include <cstdint>
#include <string>

// libFuzzer's; one is linked with the test.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace quire {

// A broken promise ends the program, not the test.
inline void Try(const std::string& input) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

}  // namespace quire

#endif  // QUIRE_BASE_TESTING_FUZZ_TARGET_H_
