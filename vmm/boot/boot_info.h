// What a kernel is told when it starts: where its command line, initrd and memory are. Each boot protocol has its own
// structure for that; all of them are put at kBootInfo.
#ifndef QUIRE_VMM_BOOT_BOOT_INFO_H_
#define QUIRE_VMM_BOOT_BOOT_INFO_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "base/units.h"
#include "vmm/boot/kernel_image.h"
#include "vmm/boot/pc_layout.h"

namespace quire {

// The same for all protocols. An initrd of no bytes is none.
struct BootFacts {
  Gpa command_line;
  ByteCount command_line_size;  // without its final zero
  Gpa initrd;
  ByteCount initrd_size;
  Gpa rsdp;
  absl::Span<const MemoryMapEntry> memory_map;
};

// Linux's boot_params: a copy of the kernel's own setup header, completed. Source: boot.rst, zero-page.rst.
std::vector<std::byte> BuildBootParams(const KernelImage& kernel, const BootFacts& facts);

// PVH's hvm_start_info, version 1, and the lists it points to. Source: Xen's public/arch-x86/hvm/start_info.h.
std::vector<std::byte> BuildStartInfo(const BootFacts& facts);

// Multiboot information and the lists it points to. The specification, section 3.3, has no place for the RSDP.
std::vector<std::byte> BuildMultibootInfo(const BootFacts& facts);
inline constexpr uint32_t kMultibootLoaderMagic = 0x2badb002;  // what the kernel finds in EAX

}  // namespace quire

#endif  // QUIRE_VMM_BOOT_BOOT_INFO_H_
