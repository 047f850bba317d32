#include "guest/swap/zstd_page.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "zstd.h"

namespace quire {
namespace {

constexpr uint32_t kMagic = ZSTD_MAGICNUMBER;

// A page that takes more is kept in another way.
constexpr size_t kMostBytes = kPageSize;

}  // namespace

// --- In.

void ZstdCompressor::Deleter::operator()(ZSTD_CCtx_s* context) const { ZSTD_freeCCtx(context); }

// The length of the content is known, and the page has a checksum of its own.
ZstdCompressor::ZstdCompressor(int level) : context_(ZSTD_createCCtx()) {
  QUIRE_CHECK(context_ != nullptr);
  ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_compressionLevel, level);
  ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_contentSizeFlag, 0);
  ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_checksumFlag, 0);
}

ZstdCompressor::~ZstdCompressor() = default;

absl::Span<const std::byte> ZstdCompressor::Compress(const std::byte* page, size_t most) {
  static_assert(sizeof output_ >= ZSTD_COMPRESSBOUND(kPageSize));
  const size_t length = ZSTD_compress2(context_.get(), output_.data(), output_.size(), page, kPageSize);
  if (ZSTD_isError(length) || length - sizeof kMagic > std::min(most, kMostBytes)) return {};
  return {output_.data() + sizeof kMagic, length - sizeof kMagic};
}

ByteCount ZstdCompressor::metadata() const { return ByteCount::Bytes(ZSTD_sizeof_CCtx(context_.get()) + sizeof *this); }

// --- Out.

void ZstdDecompressors::Deleter::operator()(ZSTD_DCtx_s* context) const { ZSTD_freeDCtx(context); }

ZstdDecompressors::ZstdDecompressors() = default;
ZstdDecompressors::~ZstdDecompressors() = default;

ZstdDecompressors::Context ZstdDecompressors::Take() {
  {
    absl::MutexLock lock(&lock_);
    if (!idle_.empty()) {
      Context context = std::move(idle_.back());
      idle_.pop_back();
      return context;
    }
  }
  Context context(ZSTD_createDCtx());
  QUIRE_CHECK(context != nullptr);
  absl::MutexLock lock(&lock_);
  ++made_;
  context_bytes_ = ZSTD_sizeof_DCtx(context.get());
  return context;
}

void ZstdDecompressors::Return(Context context) {
  absl::MutexLock lock(&lock_);
  idle_.push_back(std::move(context));
}

bool ZstdDecompressors::Decompress(absl::Span<const std::byte> bytes, std::byte* page) {
  if (bytes.size() > kMostBytes) return false;
  std::byte frame[sizeof kMagic + kMostBytes];
  std::memcpy(frame, &kMagic, sizeof kMagic);
  std::memcpy(frame + sizeof kMagic, bytes.data(), bytes.size());
  const size_t length = sizeof kMagic + bytes.size();
  // One frame, and nothing after it. An error is a length that is no frame's.
  if (ZSTD_findFrameCompressedSize(frame, length) != length) return false;
  Context context = Take();
  const size_t made = ZSTD_decompressDCtx(context.get(), page, kPageSize, frame, length);
  Return(std::move(context));
  return made == kPageSize;
}

ByteCount ZstdDecompressors::metadata() const {
  absl::MutexLock lock(&lock_);
  return ByteCount::Bytes(context_bytes_ * made_ + idle_.capacity() * sizeof(Context));
}

}  // namespace quire
