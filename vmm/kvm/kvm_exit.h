// Why a vCPU stopped running, and the sentences for those that will not run again.
#ifndef QUIRE_VMM_KVM_KVM_EXIT_H_
#define QUIRE_VMM_KVM_KVM_EXIT_H_

#include <linux/kvm.h>

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "absl/strings/string_view.h"
#include "base/units.h"
#include "vmm/kvm/wired_memory.h"

namespace quire {

// The program wrote these bytes to the console. They are valid until the vCPU runs again.
struct SerialOutput {
  absl::string_view bytes;
};

// The program wrote to a port that nobody listens to. The vCPU may run on.
struct PortWrite {
  uint16_t port = 0;
  uint32_t value = 0;
};

// The program wrote to QUIRE_ADVISE_PORT; what the advice is about stands in boot info. The vCPU may run on.
struct AdviceWrite {
  uint32_t value = 0;
};

// The program wrote to QUIRE_WIRE_PORT; what the request is about stands in boot info, where it is answered. The vCPU
// may run on then.
struct WireWrite {
  uint32_t value = 0;
};

// The program wrote to QUIRE_FREEZE_PORT: the guest may be frozen here. The vCPU may run on.
struct FreezePoint {};

// The program wrote to QUIRE_REST_PORT: the vCPU may rest. It may run on.
struct RestPoint {};

// The program ended on this vCPU; 0 is success.
struct GuestExit {
  uint32_t status = 0;
};

// A signal arrived: Kick(), or anything else that signals threads (a debugger, a suspended terminal). Look at what
// there is to be done, and run the vCPU again if nothing is.
struct Interrupted {};

// KVM could not translate an address just now; it does not say which (KVM_RUN: EFAULT without KVM_EXIT_MEMORY_FAULT).
// That is normal while a piece of the guest's window is being replaced: wait until none is, and run the vCPU again, at
// the same instruction. When that goes on with nothing being replaced, end the guest with KvmVcpu::Die.
struct MemoryFault {
  // The page, if it is lost and the guest is told of such (KvmWindow::TakeLostPage). VmMachine fills it in.
  std::optional<Gfn> lost = {};
};

// The vCPU cannot go on.
struct Death {
  std::string sentence;
  std::string registers;  // several lines
};

using VcpuExit = std::variant<SerialOutput, PortWrite, AdviceWrite, WireWrite, FreezePoint, RestPoint, GuestExit,
                              Interrupted, MemoryFault, Death>;

// The program read from a port. There are no devices to read: it gets all ones, as from an empty bus. Handled within
// KvmVcpu.
struct PortRead {
  uint8_t* data;
  uint32_t bytes;
};

// An exit as it is decoded.
using DecodedExit =
    std::variant<SerialOutput, PortWrite, AdviceWrite, WireWrite, FreezePoint, RestPoint, GuestExit, PortRead, Death>;

// What KVM_RUN, having returned 0, left in `run`, which is followed by the data of port accesses as the vCPU's shared
// memory is. Death has no registers yet. Pure.
DecodedExit DecodeExit(kvm_run& run);

// A sentence, without a full stop, for an exit after which the guest cannot go on.
std::string DescribeExit(const kvm_run& run);

// "page fault (#PF) at rip 0x400123: write to 0x0, which is not mapped"; `cr2` is the address of a page fault.
std::string DescribeFault(const GuestFault& fault, uint64_t cr2);

// The registers for people, five lines without a newline at the end.
std::string FormatRegisters(const kvm_regs& regs, const kvm_sregs& sregs);

}  // namespace quire

#endif  // QUIRE_VMM_KVM_KVM_EXIT_H_
