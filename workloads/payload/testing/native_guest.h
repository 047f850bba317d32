// Runs a guest program inside a test's own process: no KVM, no page tables, no privileges. The program's OUT
// instructions fault, which user space may not execute them, and a signal handler carries them out. So the very bytes
// that guests run are tested wherever unit tests run; what only a virtual machine shows is left to the kvm tier.
#ifndef QUIRE_WORKLOADS_PAYLOAD_TESTING_NATIVE_GUEST_H_
#define QUIRE_WORKLOADS_PAYLOAD_TESTING_NATIVE_GUEST_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "base/mapping.h"
#include "base/units.h"
#include "workloads/guest_abi.h"

namespace quire {

// What a program wrote to QUIRE_ADVISE_PORT or QUIRE_WIRE_PORT, and what its boot info said then. Nothing is done about
// it.
struct NativeAdvice {
  uint32_t value = 0;
  uint64_t begin = 0;
  uint64_t bytes = 0;
};

// How a program ended: by the exit port, by OUT to a port that there is none of, or by a signal.
struct NativeOutcome {
  enum Kind { kExit, kUnknownPort, kSignal } kind = kSignal;
  uint32_t status = 0;         // kExit
  uint16_t port = 0;           // kUnknownPort
  int signal = 0;              // kSignal ...
  uint64_t fault_address = 0;  // ... and the address it is about
  std::string console;
  std::vector<NativeAdvice> advice;  // the first few
  std::vector<NativeAdvice> wire_requests;
};

// Where a program's segments lie: the hull of its PT_LOAD headers, and the entry point.
struct ProgramImage {
  uint64_t begin = 0;
  uint64_t end = 0;
  uint64_t entry = 0;
};
ProgramImage ImageOf(absl::Span<const std::byte> elf);

// A guest's memory, followed by a page that cannot be touched, and its boot info with all that guest_abi.h promises but
// the aux area. One at a time; not thread-safe.
class NativeGuest {
 public:
  NativeGuest(ByteCount memory, uint32_t vcpus, uint64_t seed);

  quire_boot_info& boot() { return boot_; }
  uint64_t* page(uint64_t number) { return reinterpret_cast<uint64_t*>(memory_.data() + number * kPageSize); }

  // Loads the program where it wants to lie and runs it as vCPU `vcpu` until it ends.
  NativeOutcome Run(absl::Span<const std::byte> elf, uint64_t vcpu);

 private:
  Mapping memory_;
  quire_boot_info boot_ = {};
};

}  // namespace quire

#endif  // QUIRE_WORKLOADS_PAYLOAD_TESTING_NATIVE_GUEST_H_
