#include "vmm/boot/bz_image.h"

#include <asm/bootparam.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "base/units.h"
#include "vmm/boot/kernel_segment.h"

namespace quire {
namespace {

constexpr uint64_t kHeaderAt = offsetof(boot_params, hdr);
constexpr uint64_t kMagicAt = kHeaderAt + offsetof(setup_header, header);
constexpr uint32_t kMagic = 0x53726448;  // "HdrS"
constexpr uint16_t kBootFlag = 0xaa55;
constexpr uint16_t kFirstProtocolWith64Bit = 0x020c;
constexpr uint64_t kSector = 512;
constexpr uint64_t kEntry64 = 0x200;  // of the 64-bit entry point, from where the kernel is loaded

static_assert(kHeaderAt == 0x1f1 && kMagicAt == 0x202);

class Parser {
 public:
  explicit Parser(const FileView& file) : file_(file) {}

  absl::StatusOr<KernelImage> Parse() &&;

 private:
  absl::Status ReadHeader();
  absl::Status CheckProtocol();
  absl::Status FindKernel();

  const FileView& file_;
  setup_header header_;
  KernelImage image_;
};

absl::Status Parser::ReadHeader() {
  const std::optional<setup_header> header = file_.ReadAt<setup_header>(kHeaderAt);
  if (!header) return file_.Error("truncated: the file ends within the header of a bzImage");
  header_ = *header;
  if (header_.boot_flag != kBootFlag) {
    return file_.Error("malformed: a bzImage without the boot sector's signature at 0x1fe");
  }
  // Older protocols have shorter headers. The second byte of the jump over them says where they end: what follows is
  // code.
  const uint64_t header_end = kMagicAt + (header_.jump >> 8);
  if (header_end < kHeaderAt + offsetof(setup_header, handover_offset)) {
    return file_.Error("an old or malformed bzImage: its header ends at ", absl::StrFormat("0x%x", header_end),
                       ", before init_size, without which there is no saying how much memory it takes");
  }
  const uint64_t size = std::min<uint64_t>(header_end - kHeaderAt, sizeof(setup_header));
  image_.setup_header = file_.Part(kHeaderAt, size);
  return absl::OkStatus();
}

absl::Status Parser::CheckProtocol() {
  image_.protocol = header_.version;
  if (header_.version < kFirstProtocolWith64Bit) {
    return file_.Error("speaks version ", header_.version >> 8, ".", header_.version & 0xff,
                       " of the boot protocol, which has no 64-bit entry: it takes 2.12, a Linux of 3.8 or later");
  }
  if ((header_.xloadflags & XLF_KERNEL_64) == 0) {
    return file_.Error("a 32-bit kernel: take one built for x86-64");
  }
  if ((header_.loadflags & LOADED_HIGH) == 0) {
    return file_.Error("a zImage, which is loaded below 1 MiB: build a bzImage");
  }
  return absl::OkStatus();
}

absl::Status Parser::FindKernel() {
  const uint64_t sectors = header_.setup_sects == 0 ? 4 : header_.setup_sects;  // as ever, says boot.rst
  const uint64_t kernel_at = (1 + sectors) * kSector;
  const uint64_t claimed = uint64_t{header_.syssize} * 16;
  if (claimed == 0 || !file_.Holds(kernel_at, claimed)) {
    return file_.Error("truncated: a kernel of ", claimed, " bytes at offset ", kernel_at, " in a file of ",
                       file_.size(), " bytes");
  }
  // The size is in units of 16 bytes, and newer kernels round it down: what follows belongs to it, or does no harm.
  const absl::Span<const std::byte> content = file_.Part(kernel_at, file_.size() - kernel_at);
  if (content.size() <= kEntry64) return file_.Error("truncated: a kernel that ends before its 64-bit entry point");
  image_.segments = {{.address = Gpa(header_.pref_address),
                      .size = ByteCount::Bytes(std::max<uint64_t>(header_.init_size, content.size())),
                      .content = content}};
  image_.entry = Gpa(header_.pref_address + kEntry64);
  image_.initrd_limit = Gpa(uint64_t{header_.initrd_addr_max} + 1);
  image_.command_line_limit = ByteCount::Bytes(header_.cmdline_size);
  return CheckSegments(file_, image_.segments);
}

absl::StatusOr<KernelImage> Parser::Parse() && {
  image_.format = KernelFormat::kBzImage;
  image_.name = std::string(file_.name());
  for (auto step : {&Parser::ReadHeader, &Parser::CheckProtocol, &Parser::FindKernel}) {
    if (absl::Status status = (this->*step)(); !status.ok()) return status;
  }
  return std::move(image_);
}

}  // namespace

bool LooksLikeBzImage(const FileView& file) { return file.ReadAt<uint32_t>(kMagicAt) == kMagic; }

absl::StatusOr<KernelImage> ParseBzImage(const FileView& file) { return Parser(file).Parse(); }

}  // namespace quire
