#include "guest/memory_map.h"

#include <sys/mman.h>

namespace quire {

absl::StatusOr<MemoryMap> MemoryMap::Create(GuestMemory& guest, PageCount size, PageEntry fresh) {
  // Fresh anonymous memory is a map of fresh pages, and costs nothing for blocks that are never touched.
  const PageCount bytes = PageCount::Ceil(ByteCount::Bytes(size.in_pages() * sizeof(PageEntry)));
  absl::StatusOr<Mapping> entries =
      Mapping::Map(bytes.bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (!entries.ok()) return entries.status();
  MemoryMap map(size, fresh, *std::move(entries));
  for (uint64_t i = 0; i < map.blocks(); ++i) {
    Block& block = map.blocks_[i];
    block.guest = &guest;
    block.number = BlockNumber(i);
    absl::MutexLock lock(&block.lock);
    block.count[static_cast<size_t>(fresh.state())] = static_cast<uint16_t>(map.Pages(block).size().in_pages());
  }
  return map;
}

MemoryMap::MemoryMap(PageCount size, PageEntry fresh, Mapping entries)
    : size_(size),
      fresh_(fresh),
      entries_(std::move(entries)),
      blocks_(std::make_unique<Block[]>(size.in_blocks_ceil())),
      counts_(std::make_unique<PageStateCounts>()) {
  counts_->pages[static_cast<size_t>(fresh.state())] = size.in_pages();
}

void MemoryMap::Set(Block& block, Gfn gfn, PageEntry entry) {
  const PageState from = Read(gfn).state();
  const PageState to = entry.state();
  Write(gfn, entry);
  if (from == to) return;
  --block.count[static_cast<size_t>(from)];
  ++block.count[static_cast<size_t>(to)];
  counts_->Move(from, to);
}

void MemoryMap::SetRun(Block& block, GfnRange range, PageState state, FrameNumber first) {
  std::array<uint16_t, kPageStates> from = {};
  for (Gfn gfn = range.begin(); gfn < range.end(); ++gfn) {
    const PageEntry before = Read(gfn);
    ++from[static_cast<size_t>(before.state())];
    Write(gfn, PageEntry::WithFrame(state, first + (gfn - range.begin())).WithKeptOf(before));
  }
  for (size_t i = 0; i < kPageStates; ++i) {
    if (from[i] == 0) continue;
    block.count[i] -= from[i];
    block.count[static_cast<size_t>(state)] += from[i];
    counts_->Move(static_cast<PageState>(i), state, from[i]);
  }
}

ByteCount MemoryMap::metadata() const {
  return entries_.size() + ByteCount::Bytes(blocks() * sizeof(Block) + sizeof(PageStateCounts));
}

}  // namespace quire
