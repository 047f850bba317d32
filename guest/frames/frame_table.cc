#include "guest/frames/frame_table.h"

#include <sys/mman.h>

#include <ostream>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace quire {

const char* FrameKindName(FrameKind kind) {
  switch (kind) {
    case FrameKind::kAbsent:
      return "absent";
    case FrameKind::kFree:
      return "free";
    case FrameKind::kCached:
      return "cached";
    case FrameKind::kIsolated:
      return "isolated";
    case FrameKind::kBusy:
      return "busy";
    case FrameKind::kOwned:
      return "owned";
    case FrameKind::kZone:
      return "zone";
    case FrameKind::kWired:
      return "wired";
    case FrameKind::kShared:
      return "shared";
    case FrameKind::kPoisoned:
      return "poisoned";
  }
  return "unknown";
}

std::ostream& operator<<(std::ostream& os, FrameDescriptor d) {
  return os << FrameKindName(d.kind()) << " (0x" << absl::StrCat(absl::Hex(d.bits(), absl::kZeroPad16)) << ')';
}

absl::StatusOr<FrameTable> FrameTable::Create(PageCount size) {
  if (size.in_pages() % kPagesPerBlock != 0 || size == PageCount() || size > kMaxSize) {
    return absl::InvalidArgumentError(absl::StrCat("a frame table of ", size.in_pages(), " frames: must be 1 to ",
                                                   kMaxSize.in_pages() / kPagesPerBlock, " whole blocks of ",
                                                   kPagesPerBlock, " frames"));
  }
  const ByteCount bytes = ByteCount::Bytes(size.in_pages() * sizeof(FrameDescriptor));
  absl::StatusOr<Mapping> memory =
      Mapping::Map(bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, /*fd=*/-1, /*offset=*/0);
  if (!memory.ok()) return memory.status();
  // A huge page here would hold the descriptors of 512 blocks and be populated whole at the first touch. Where the
  // kernel knows no huge pages, it refuses, and there is nothing to avoid.
  (void)madvise(memory->data(), bytes.in_bytes(), MADV_NOHUGEPAGE);
  return FrameTable(*std::move(memory), size);
}

}  // namespace quire
