#include "vmm/pool_probe.h"

#include <sys/mman.h>

#include <cerrno>

#include "absl/status/statusor.h"
#include "base/mapping.h"
#include "base/units.h"
#include "guest/frames/pool_file.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace quire {
namespace {

// The errno of mapping the pool's first block, which is populated, into a window as a guest's would be.
int CollapseError(const PoolFile& file) {
  const absl::StatusOr<Mapping> window =
      Mapping::MapAligned(kOneBlock.bytes(), kOneBlock.bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, file.fd(), 0);
  if (!window.ok()) return ENOMEM;
  madvise(window->data(), kBlockSize, MADV_HUGEPAGE);
  return madvise(window->data(), kBlockSize, MADV_COLLAPSE) == 0 ? 0 : errno;
}

}  // namespace

PoolOffer ProbePool() {
  PoolOffer offer;
  const PageCount size = PageCount::OfBlocks(1);
  const absl::StatusOr<PoolFile> file = PoolFile::Create({.size = size, .arena = size, .limit = size * 2});
  offer.created = file.status();
  if (!file.ok()) return offer;
  offer.tmpfs = file->backing() == PoolFile::Backing::kTmpfs;
  *file->HugeAlias(FrameNumber(0)) = std::byte{1};
  offer.huge = file->PopulatedPages() == kOneBlock;
  offer.collapse_error = CollapseError(*file);
  return offer;
}

}  // namespace quire
