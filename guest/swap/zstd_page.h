// Pages compressed with zstd: what stays cold in the pool, a quarter smaller than with LZ4 at four times the price of a
// load (docs/swap.md has the figures).
//
// What is kept of a page is one zstd frame without its first four bytes, which are the same for all (RFC 8878, "Magic
// Number"). They are put back before it is decompressed, so that no damage makes another format of it: Debian's
// library has the decoders of the formats before the first standard one too, and takes frames of any, one after the
// other.
#ifndef QUIRE_GUEST_SWAP_ZSTD_PAGE_H_
#define QUIRE_GUEST_SWAP_ZSTD_PAGE_H_

#include <array>
#include <cstddef>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "base/units.h"

struct ZSTD_CCtx_s;
struct ZSTD_DCtx_s;

namespace quire {

// For one thread at a time.
class ZstdCompressor {
 public:
  // 3, for 2.6 % less than 1 takes: the time is spent once, by a thread that nobody waits for, and the level makes no
  // difference to a load.
  static constexpr int kLevel = 3;

  explicit ZstdCompressor(int level = kLevel);
  ~ZstdCompressor();

  // The 4 KiB at `page`; empty if it would take more than `most` bytes. Valid until the next call.
  absl::Span<const std::byte> Compress(const std::byte* page, size_t most);
  ByteCount metadata() const;

 private:
  struct Deleter {
    void operator()(ZSTD_CCtx_s* context) const;
  };
  const std::unique_ptr<ZSTD_CCtx_s, Deleter> context_;
  std::array<std::byte, kPageSize + 128> output_;
};

// Thread safe.
//
// A context takes 94 KiB, and zeroing a new one as long as a load. One for each thread would be many where each vCPU is
// a thread, could not be counted, and would outlive the store; one for each CPU would have to be locked while it is at
// work, by a thread that may be preempted. So they are kept together, and there are as many as there ever were loads at
// the same time.
class ZstdDecompressors {
 public:
  ZstdDecompressors();
  ~ZstdDecompressors();

  // Makes the 4 KiB at `page` of what a compressor has made of them. False: the bytes are no such page's; then `page`
  // holds anything.
  bool Decompress(absl::Span<const std::byte> bytes, std::byte* page) ABSL_LOCKS_EXCLUDED(lock_);
  ByteCount metadata() const ABSL_LOCKS_EXCLUDED(lock_);

 private:
  struct Deleter {
    void operator()(ZSTD_DCtx_s* context) const;
  };
  using Context = std::unique_ptr<ZSTD_DCtx_s, Deleter>;
  Context Take() ABSL_LOCKS_EXCLUDED(lock_);
  void Return(Context context) ABSL_LOCKS_EXCLUDED(lock_);

  mutable absl::Mutex lock_;
  std::vector<Context> idle_ ABSL_GUARDED_BY(lock_);
  size_t made_ ABSL_GUARDED_BY(lock_) = 0;
  size_t context_bytes_ ABSL_GUARDED_BY(lock_) = 0;  // of each
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_ZSTD_PAGE_H_
