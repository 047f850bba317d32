// The disk that is measured is that of $QUIRE_SWAP, a path as SwapFile::Open takes it, otherwise that of /var/tmp.
// docs/swap.md has the commands, and those of fio to compare with.
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mapping.h"
#include "base/units.h"
#include "benchmark/benchmark.h"
#include "guest/swap/backing_store.h"
#include "guest/swap/file_store.h"

namespace quire {
namespace {

using Io = FileStoreOptions::Io;
using Transfer = BackingStore::Transfer;

constexpr ByteCount kSize = ByteCount::GiB(1);
constexpr uint64_t kBatch = uint64_t{1} << 20;

class Bench {
 public:
  explicit Bench(benchmark::State& state)
      : store_(Open(static_cast<Io>(state.range(0)))),
        memory_(Mapping::Map(ByteCount::Bytes(kBatch), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    std::memset(memory_->data(), 0x5a, kBatch);
    if (!store_.ok()) state.SkipWithError(std::string(store_.status().message()).c_str());
    if (store_.ok()) {
      state.SetLabel(std::string((*store_)->uses_uring() ? "io_uring" : "pwritev") +
                     ((*store_)->direct() ? "" : ", buffered"));
    }
  }
  bool ok() const { return store_.ok(); }
  Transfer At(uint64_t offset, size_t bytes) {
    return {.offset = ByteCount::Bytes(offset), .bytes = {memory_->data(), bytes}};
  }
  // Its pages, each a transfer of its own, as they come from a pool.
  std::vector<Transfer> BatchAt(uint64_t offset) {
    std::vector<Transfer> transfers;
    for (uint64_t page = 0; page < kBatch / kPageSize; ++page) {
      transfers.push_back({.offset = ByteCount::Bytes(offset + page * kPageSize),
                           .bytes = {memory_->data() + page * kPageSize, kPageSize}});
    }
    return transfers;
  }
  // Once, so that no block of the file has to be found on the disk while it is measured.
  void FillFile() {
    for (uint64_t offset = 0; offset < kSize.in_bytes(); offset += kBatch) {
      const Transfer transfer = At(offset, kBatch);
      (void)store().Write({&transfer, 1});
    }
  }
  FileStore& store() { return **store_; }

 private:
  static absl::StatusOr<std::unique_ptr<FileStore>> Open(Io io) {
    const char* const path = std::getenv("QUIRE_SWAP");
    return FileStore::Open({.path = path == nullptr ? "/var/tmp" : path, .size = kSize, .io = io});
  }
  absl::StatusOr<std::unique_ptr<FileStore>> store_;
  absl::StatusOr<Mapping> memory_;
};

void Finish(benchmark::State& state, const absl::Status& status, uint64_t bytes) {
  if (!status.ok()) state.SkipWithError(std::string(status.message()).c_str());
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * bytes));
}

// The whole file, in batches of 1 MiB of adjacent pages, one after the other. The second argument: whether the file has
// its blocks on the disk.
void BM_SequentialWrite(benchmark::State& state) {
  Bench bench(state);
  if (!bench.ok()) return;
  if (state.range(1) != 0) bench.FillFile();
  absl::Status status;
  uint64_t offset = 0;
  for (auto _ : state) {
    status.Update(bench.store().Write(bench.BatchAt(offset)));
    offset = (offset + kBatch) % kSize.in_bytes();
  }
  Finish(state, status, kBatch);
}
BENCHMARK(BM_SequentialWrite)
    ->ArgNames({"pread", "filled"})
    ->ArgsProduct({{0, 1}, {0, 1}})
    ->Iterations(kSize.in_bytes() / kBatch)
    ->UseRealTime();

// Pages here and there, so many a call.
void BM_RandomRead(benchmark::State& state) {
  Bench bench(state);
  if (!bench.ok()) return;
  bench.FillFile();
  const size_t count = static_cast<size_t>(state.range(1));
  std::mt19937_64 random(1);
  std::vector<Transfer> transfers(count);
  absl::Status status;
  for (auto _ : state) {
    for (Transfer& transfer : transfers) {
      transfer = bench.At(random() % (kSize.in_bytes() / kPageSize) * kPageSize, kPageSize);
    }
    status.Update(bench.store().Read(transfers, BackingStore::IfAway::kWait));
  }
  Finish(state, status, count * kPageSize);
}
BENCHMARK(BM_RandomRead)->ArgNames({"pread", "pages"})->ArgsProduct({{0, 1}, {1, 32}})->UseRealTime();

}  // namespace
}  // namespace quire
