// What is to be in a guest's memory and in its first vCPU's registers for a kernel to start.
//
// The plan is made without a machine: bytes in, bytes out. Whoever has one copies the pieces into the guest's memory,
// which is zero elsewhere, sets the registers, and runs.
#ifndef QUIRE_VMM_BOOT_BOOT_PLAN_H_
#define QUIRE_VMM_BOOT_BOOT_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/units.h"
#include "vmm/boot/kernel_image.h"

namespace quire {

struct BootRequest {
  const KernelImage& kernel;
  absl::Span<const std::byte> initrd = {};  // empty: none
  std::string command_line = {};
  ByteCount memory;
  int vcpus = 1;
  int virtio_devices = 0;
};

// Valid for as long as the kernel's and the initrd's bytes are.
struct BootPlan {
  struct Piece {
    Gpa gpa;
    std::vector<std::byte> made;          // the bytes, or else
    absl::Span<const std::byte> of_file;  // these, of the kernel's or the initrd's file

    absl::Span<const std::byte> bytes() const { return made.empty() ? of_file : absl::MakeConstSpan(made); }
  };
  // In ascending order, none empty, none overlapping, all within the low part of memory (PcRegions).
  std::vector<Piece> pieces;

  // Both modes: interrupts off, flat segments from the GDT (base 0, limit 4 GiB): CS kBootCodeSelector, the others
  // kBootDataSelector, TR kBootTaskSelector (base 0, limit 0x67, busy). No IDT.
  //   kLong       64-bit: CR0.PE and PG, CR4.PAE, EFER.LME and LMA, CR3 is page_tables, CS.L
  //   kProtected  32-bit: CR0.PE, neither paging nor anything in CR4 and EFER, CS.D
  enum class Mode { kLong, kProtected };
  Mode mode = Mode::kLong;
  uint64_t entry = 0;
  uint64_t rax = 0, rbx = 0, rsi = 0;  // where the kernel expects what it is told; all others are zero
  Gpa stack;                           // RSP
  Gpa gdt;
  uint16_t gdt_limit = 0;  // size in bytes, less one
  Gpa page_tables;         // kLong: identity for the first 4 GiB
};

inline constexpr uint16_t kBootCodeSelector = 0x10;  // the numbers of Linux's 64-bit boot protocol
inline constexpr uint16_t kBootDataSelector = 0x18;
inline constexpr uint16_t kBootTaskSelector = 0x20;

// Pure: no state, thread safe.
// Errors: InvalidArgument, one sentence with the numbers: what does not fit where, and what to do about it.
absl::StatusOr<BootPlan> PlanBoot(const BootRequest& request);

}  // namespace quire

#endif  // QUIRE_VMM_BOOT_BOOT_PLAN_H_
