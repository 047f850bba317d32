// Linux's bzImage: a real-mode part, whose header says how to load the rest, and the rest, which unpacks itself.
//
//   0      0x1f1  0x202 "HdrS"     512 * (1 + setup_sects)
//   +------+------+----------------+--------------------------------------+
//   |      | setup_header | ...    | protected-mode part, at pref_address |
//   +------+------+----------------+--------------------------------------+
//
// Source: Linux's Documentation/arch/x86/boot.rst; <asm/bootparam.h>.
#ifndef QUIRE_VMM_BOOT_BZ_IMAGE_H_
#define QUIRE_VMM_BOOT_BZ_IMAGE_H_

#include "absl/status/statusor.h"
#include "base/file_view.h"
#include "vmm/boot/kernel_image.h"

namespace quire {

// Whether the file claims to be one.
bool LooksLikeBzImage(const FileView& file);

// Errors: InvalidArgument, as ParseKernel.
absl::StatusOr<KernelImage> ParseBzImage(const FileView& file);

}  // namespace quire

#endif  // QUIRE_VMM_BOOT_BZ_IMAGE_H_
