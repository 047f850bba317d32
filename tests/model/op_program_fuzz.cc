// The model test, with a fuzzer choosing the operations: bytes become a program (see Dice), the program is run against
// the naive map, and printed as C++ when it fails.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "tests/model/machine.h"
#include "tests/model/op_program.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  quire::model::BytesDice dice(absl::MakeConstSpan(data, size));
  quire::model::Program program;
  while (!dice.empty()) program.push_back(quire::model::RandomOp(dice));
  const quire::model::Outcome outcome = quire::model::Run(program);
  if (outcome.status.ok()) return 0;
  std::fprintf(stderr, "%s after %zu operations of\n%s\n", outcome.status.ToString().c_str(), outcome.operations,
               quire::model::ToCpp(program).c_str());
  std::abort();
}
