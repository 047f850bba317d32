// The ELF side of a kernel: what it wants in which physical memory, and Xen's note of where it is entered.
//
// Only the file header, the program headers and the notes matter, in their 32-bit and 64-bit forms. Unlike a guest
// program (vmm/kvm/elf_loader.h) a kernel says with p_paddr where it lies, and its virtual addresses are its own
// affair.
//
// Source: System V ABI, "Object Files" and "Program Loading"; <elf.h>; Xen's elfnote.h.
#ifndef QUIRE_VMM_BOOT_ELF_KERNEL_H_
#define QUIRE_VMM_BOOT_ELF_KERNEL_H_

#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "base/file_view.h"
#include "base/units.h"
#include "vmm/boot/kernel_image.h"
#include "vmm/boot/kernel_segment.h"

namespace quire {

struct ElfKernel {
  std::vector<KernelSegment> segments;  // as CheckSegments leaves them
  Gpa entry;                            // e_entry, as a physical address; anything
  std::optional<Gpa> pvh_entry;         // of the note, if there is one; anything
};

// Whether the file claims to be one.
bool LooksLikeElf(const FileView& file);

// Errors: InvalidArgument, as ParseKernel.
absl::StatusOr<ElfKernel> ParseElfKernel(const FileView& file);

// The image of a kernel that has the note.
absl::StatusOr<KernelImage> MakePvhImage(const FileView& file, const ElfKernel& kernel);

}  // namespace quire

#endif  // QUIRE_VMM_BOOT_ELF_KERNEL_H_
