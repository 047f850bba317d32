// What a guest program needs besides its memory: page tables, the loaded program, stacks, the boot info page. It lies
// in a memslot of its own whose frames are wired, that is, never taken out, so that no vCPU ever faults on it.
//
// Guest physical memory (wired memory comes last, so that everything its page tables point to is already placed):
//
//   0               memory      next GiB boundary                      next GiB boundary
//   +---------------+ - - - - - +-------+ - - - +-------+ - - - - - - +--------------------+
//   |  the guest's  |           | aux 0 |       | aux 1 |             |       wired        |
//   |    memory     |           |       |       |       |             |                    |
//   +---------------+           +-------+       +-------+             +--------------------+
//
// Wired memory, from its beginning, and where the guest sees it (workloads/guest_abi.h; r w x: for the program itself,
// at privilege level 3):
//
//   boot info      struct quire_boot_info              QUIRE_BOOT_INFO       r w
//   descriptors    GDT, IDT, TSSs, I/O permission map  kDescriptorsAddress   not for the program
//   fault code     a few bytes for each exception      kFaultCodeAddress     r x
//   fault frames   64 bytes for each vCPU              kFaultFramesAddress   r w
//   stacks         QUIRE_STACK_SIZE for each vCPU      kStacksAddress        r w, an unmapped gap below each
//   program        the pages its segments touch        as the ELF file says, with the rights it says
//   page tables    guest_page_tables.h                 nowhere
//
// The guest's memory is mapped at QUIRE_MEMORY, the aux regions in their order from QUIRE_AUX on, each at the next
// multiple of 2 MiB.
//
// A guest program has no exception handlers of its own, and a triple fault tells nothing on AMD processors: KVM resets
// the vCPU before user space can read its registers (svm.c, shutdown_interception). So every exception has a handler
// here: the processor writes its frame to this vCPU's fault frame (by the interrupt stack table), at unchanged
// privilege level, because a KVM with a shadow MMU emulates level 0 instruction by instruction, and the fault code
// does one OUT to kFaultPort. The host then finds all registers as they were. A program could do that OUT itself, or
// scribble over its fault frame: it gets a wrong obituary.
#ifndef QUIRE_VMM_KVM_WIRED_MEMORY_H_
#define QUIRE_VMM_KVM_WIRED_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/units.h"
#include "vmm/kvm/elf_loader.h"
#include "vmm/kvm/guest_page_tables.h"
#include "workloads/guest_abi.h"

namespace quire {

// Where the guest sees what guest_abi.h does not speak of.
inline constexpr Gva kDescriptorsAddress{0x200000};
inline constexpr Gva kFaultCodeAddress{0x210000};
inline constexpr Gva kFaultFramesAddress{0x211000};
inline constexpr Gva kStacksAddress{0x20000000};
inline constexpr uint64_t kStackStride = 2 * QUIRE_STACK_SIZE;  // the lower half is not mapped

inline constexpr uint16_t kFaultPort = 0xf5;

// Data beside the guest's memory, in a memslot of its own. `size` is a multiple of 4 KiB, not zero, at most 1 TiB. With
// kReadOnly the program's page tables do not let it write there.
struct AuxRegion {
  ByteCount size;
  Protection protection = Protection::kReadOnly;
};

// What a machine is to be made of. `image` must outlive the call that takes this.
struct MachineShape {
  const ElfImage& image;
  ByteCount memory;  // a multiple of 4 KiB, not zero
  int vcpus = 1;     // 1 to QUIRE_MAX_VCPUS
  std::vector<AuxRegion> aux;
  int physical_address_bits = 36;  // of the guest: KvmSystem::physical_address_bits()
};

// Where everything lies. Wired memory takes `size` bytes at `gpa`, aux region i as many as were asked for at
// aux[i].gpa, and the program sees that at aux[i].address.
struct WiredLayout {
  struct Aux {
    Gva address;
    Gpa gpa;
    ByteCount size;
  };

  Gpa gpa;
  ByteCount size;
  std::vector<Aux> aux;

  ByteCount memory;
  int vcpus = 0;
  // Offsets in wired memory; boot info is at 0.
  ByteCount descriptors, fault_code, fault_frames, stacks, program, page_tables;
  std::vector<GuestMapping> mappings;  // everything, in ascending order of address
};

// Lays the machine out. Pure.
// Errors: InvalidArgument when memory or vcpus are out of range, or when the guest would need more physical address
// space than it has.
absl::StatusOr<WiredLayout> PlanWiredMemory(const MachineShape& shape);

// What a vCPU's registers are set to before it runs first.
struct VcpuStart {
  Gva entry;
  Gva stack_pointer;
  Gva boot_info;
  int vcpu = 0;
  Gpa page_tables;
  Gva gdt, idt, tss;
  uint16_t gdt_limit = 0, idt_limit = 0, tss_limit = 0;
};

// An exception that the program caused, as the processor reported it.
struct GuestFault {
  int vector = 0;  // 0 to 31
  uint64_t error_code = 0;
  uint64_t rip = 0;
  uint64_t rflags = 0;
  uint64_t rsp = 0;
};

// The part of its memory that a guest gives advice on, or has a request about, as it claims.
struct AdvisedPart {
  ByteCount begin;
  ByteCount size;

  // Not by their sum, which may overflow.
  bool LiesIn(ByteCount memory) const { return begin <= memory && size <= memory - begin; }
};

// The host's side of wired memory. Does not own the memory, which outlives this object.
// Thread safe once Load has returned: the guest and other host threads may read and write boot info at any time, which
// is why it is touched by relaxed atomic accesses only, and why nothing read from it is relied on.
class WiredMemory {
 public:
  // `memory` is layout.size bytes, aligned to 4 KiB, writable, the guest's at layout.gpa.
  WiredMemory(WiredLayout layout, absl::Span<std::byte> memory);
  WiredMemory(const WiredMemory&) = delete;
  WiredMemory& operator=(const WiredMemory&) = delete;

  // Overwrites all of it: loads the program, writes the tables, makes boot info. `image` is the one the layout was
  // planned for. No vCPU runs meanwhile.
  void Load(const ElfImage& image, uint64_t seed);

  // Instead of Load: all of it is as it is in `frozen`, of the same layout, but for the number of the clone.
  void LoadClone(absl::Span<const std::byte> frozen, uint64_t clone);

  const WiredLayout& layout() const { return layout_; }
  VcpuStart StartOf(int vcpu) const;

  // Sets boot_info->stop: the program is to finish.
  void RequestStop();
  // Whether that has been called, or the guest has written so.
  bool stop_requested() const;
  // Sets boot_info->idle_percent.
  void AskToRest(uint32_t percent);
  // The vCPU's progress so far, as the guest claims it. Fields may be from slightly different moments.
  quire_progress ReadProgress(int vcpu) const;

  // What boot_info->huge_* say. Each word is read once.
  AdvisedPart ReadAdvisedPart() const;
  // What boot_info->wire_* say, likewise, and the answer to it.
  AdvisedPart ReadPartToWire() const;
  void AnswerWireRequest(uint64_t answer);

  // The exception whose fault code does an OUT at `rip`; nothing when there is no fault code at that address. Errors
  // codes and registers are from the vCPU's fault frame.
  std::optional<GuestFault> FaultAt(Gva rip, int vcpu) const;

 private:
  void LoadProgram(const ElfImage& image);
  void WriteBootInfo(uint64_t seed);
  void WriteDescriptors();
  void WriteFaultCode();
  std::byte* At(ByteCount offset) const { return memory_.data() + offset.in_bytes(); }
  // Where the host sees an address that a mapping of wired memory holds.
  std::byte* AtGuest(Gva address) const;
  quire_boot_info& boot_info() const { return *reinterpret_cast<quire_boot_info*>(memory_.data()); }

  const WiredLayout layout_;
  const absl::Span<std::byte> memory_;
  Gva entry_;
};

}  // namespace quire

#endif  // QUIRE_VMM_KVM_WIRED_MEMORY_H_
