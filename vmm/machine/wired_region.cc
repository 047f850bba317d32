#include "vmm/machine/wired_region.h"

#include <sys/mman.h>

#include <utility>

#include "absl/strings/str_format.h"

namespace quire {

absl::StatusOr<WiredRegion> WiredRegion::Allocate(Pool* pool, ByteCount size) {
  const PageCount pages = PageCount::Ceil(size);
  WiredRegion region;
  if (pool == nullptr) {
    absl::StatusOr<Mapping> mapping =
        Mapping::Map(pages.bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!mapping.ok()) return mapping.status();
    region.anonymous_ = *std::move(mapping);
    region.bytes_ = absl::MakeSpan(region.anonymous_.data(), pages.in_bytes());
    return region;
  }
  absl::StatusOr<FrameRange> frames = pool->AllocateWired(pages);
  if (!frames.ok()) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "the pool has no room for the %.1f MiB that a guest's page tables, program and tables need beside its memory: "
        "raise --pool, or start fewer guests",
        pages.bytes().in_mib()));
  }
  region.pool_ = pool;
  region.frames_ = *frames;
  region.bytes_ = absl::MakeSpan(pool->Frame(frames->begin()), pages.in_bytes());
  return region;
}

WiredRegion& WiredRegion::operator=(WiredRegion&& other) noexcept {
  Release();
  pool_ = std::exchange(other.pool_, nullptr);
  frames_ = other.frames_;
  anonymous_ = std::move(other.anonymous_);
  bytes_ = std::exchange(other.bytes_, {});
  return *this;
}

void WiredRegion::Release() {
  if (pool_ != nullptr) pool_->FreeWired(frames_);
  pool_ = nullptr;
}

}  // namespace quire
