// What an island costs: to make it and to put its home back, with the process otherwise idle and with another thread at
// work on another CPU, which each change of a mapping must interrupt.

#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "base/check.h"
#include "base/mapping.h"
#include "base/units.h"
#include "benchmark/benchmark.h"
#include "guest/frames/pool_file.h"
#include "mmu/islands.h"
#include "mmu/userfaultfd.h"

namespace quire {
namespace {

constexpr FrameRange kArena(FrameNumber(0), kOneBlock);
constexpr FrameRange kHome(kArena.end(), kOneBlock);

// A window as KvmWindow has one, whose faults nobody serves.
class Window {
 public:
  Window()
      : file_(*PoolFile::Create(
            {.size = PageCount::OfBlocks(2), .arena = kArena.size(), .limit = PageCount::OfBlocks(2)})),
        mapping_(*Mapping::MapAligned(kHome.size().bytes(), ByteCount::Bytes(kBlockSize), PROT_READ | PROT_WRITE,
                                      MAP_SHARED | MAP_NORESERVE, file_.fd(),
                                      static_cast<off_t>(kArena.size().in_bytes()))),
        uffd_(*Userfaultfd::Create()),
        islands_({mapping_.hva(), mapping_.size()}, file_.fd(), kHome.begin(), uffd_) {
    madvise(mapping_.data(), mapping_.size().in_bytes(), MADV_DONTFORK);
    QUIRE_CHECK(uffd_.Register({mapping_.hva(), mapping_.size()}).ok());
    std::memset(file_.SmallAlias(kArena.begin()), 1, kArena.size().in_bytes());
  }
  Islands& islands() { return islands_; }

 private:
  PoolFile file_;
  Mapping mapping_;
  Userfaultfd uffd_;
  Islands islands_;
};

void MakeAndUnmake(benchmark::State& state) {
  Window window;
  const GfnRange range(Gfn(100), PageCount(static_cast<uint64_t>(state.range(0))));
  std::atomic<bool> stop = false;
  std::thread busy;
  if (state.range(1) != 0) {
    busy = std::thread([&] {
      while (!stop.load(std::memory_order_relaxed)) {
      }
    });
  }
  for (auto _ : state) {
    QUIRE_CHECK(window.islands().Make(range, FrameNumber(7)).ok());
    QUIRE_CHECK(window.islands().Unmake(range).ok());
  }
  stop = true;
  if (busy.joinable()) busy.join();
}
BENCHMARK(MakeAndUnmake)->ArgNames({"pages", "busy"})->ArgsProduct({{1, 16}, {0, 1}})->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace quire
