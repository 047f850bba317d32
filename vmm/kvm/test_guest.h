// The guest program of this folder's tests: does one thing, which boot_info->seed names. Shared by the program (C) and
// the tests (C++).
#ifndef QUIRE_VMM_KVM_TEST_GUEST_H_
#define QUIRE_VMM_KVM_TEST_GUEST_H_

enum TestGuestAction {
  kSayHello,            // "hello from vCPU N of M\n", exit with N
  kSweepMemory,         // writes every page, then checks every page; exits with the number of wrong ones
  kAddFloats,           // exits with the sum of 1.5 and 2.5, computed in SSE registers
  kReadPort,            // exits with what it reads from a port without a device
  kWritePort,           // writes 0x1234 to port 0x1234, exits with 0
  kWriteString,         // "string\n" with one instruction, exits with 0
  kWaitForStop,         // counts operations, exits with 5 once boot_info->stop is set
  kSpin,                // phase 1, then goes on for ever
  kPrintForEver,        // phase 1, then a dot after the other
  kWaitForEachOther,    // every vCPU waits in memory for all others, then exits with 0
  kInvalidInstruction,  // from here on: dies
  kDivideByZero,
  kHalt,
  kSoftwareInterrupt,
  kReadNull,
  kReadBeyondMemory,
  kWriteCode,
  kRunData,
  kOverflowStack,
  kReturn,
  kReadAux,
  kWriteAux,
  kRunAux,
};

#ifdef __cplusplus
#include <cstddef>

#include "absl/types/span.h"

namespace quire {

// The program, an ELF64 executable. Lives as long as the test.
absl::Span<const std::byte> TestGuestProgram();

}  // namespace quire
#endif

#endif  // QUIRE_VMM_KVM_TEST_GUEST_H_
