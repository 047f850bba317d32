#include "guest/swap/file_request.h"

#include <algorithm>
#include <cerrno>

#include "base/check.h"

namespace quire {
namespace {

// Answers in a row that moved nothing and asked to try again, before it is called an error: nothing waits for ever.
constexpr uint32_t kMaxFutile = 1000;

}  // namespace

void FileRequest::Append(absl::Span<std::byte> bytes) {
  QUIRE_CHECK(bytes.size() <= room());
  length_ += bytes.size();
  if (!pieces_.empty()) {
    iovec& last = pieces_.back();
    if (static_cast<std::byte*>(last.iov_base) + last.iov_len == bytes.data()) {
      last.iov_len += bytes.size();
      return;
    }
  }
  pieces_.push_back({.iov_base = bytes.data(), .iov_len = bytes.size()});
}

FileRequest::Step FileRequest::Advance(FileDirection direction, int64_t result) {
  if (result == -EINTR || result == -EAGAIN) return ++futile_ < kMaxFutile ? Repeat() : Fail(static_cast<int>(-result));
  if (result < 0) return Fail(static_cast<int>(-result));
  QUIRE_CHECK(static_cast<uint64_t>(result) <= length_);
  // A whole number of pages is asked for. The kernel stops inside a page only where the file or its room ends, and
  // the rest of the page cannot be asked for past the page cache.
  if (result == 0 || result % BackingStore::kAlignment != 0) {
    return Fail(direction == FileDirection::kRead ? kEndOfFile : ENOSPC);
  }
  futile_ = 0;
  Consume(static_cast<uint64_t>(result));
  return length_ == 0 ? Step::kDone : Repeat();
}

FileRequest::Step FileRequest::Fail(int error) {
  failed_ = true;
  error_ = error;
  return Step::kFailed;
}

FileRequest::Step FileRequest::Repeat() {
  ++repeats_;
  return Step::kAgain;
}

void FileRequest::Consume(uint64_t bytes) {
  offset_ += bytes;
  length_ -= bytes;
  while (bytes > 0) {
    iovec& piece = pieces_[first_piece_];
    const size_t part = std::min<uint64_t>(bytes, piece.iov_len);
    piece.iov_base = static_cast<std::byte*>(piece.iov_base) + part;
    piece.iov_len -= part;
    if (piece.iov_len == 0) ++first_piece_;
    bytes -= part;
  }
}

std::vector<FileRequest> MakeFileRequests(absl::Span<const BackingStore::Transfer> transfers, ByteCount base) {
  std::vector<BackingStore::Transfer> sorted(transfers.begin(), transfers.end());
  std::ranges::sort(sorted, {}, &BackingStore::Transfer::offset);
  std::vector<FileRequest> requests;
  uint64_t end = 0;  // of the last request
  for (const BackingStore::Transfer& transfer : sorted) {
    uint64_t offset = (base + transfer.offset).in_bytes();
    for (absl::Span<std::byte> rest = transfer.bytes; !rest.empty();) {
      if (requests.empty() || offset != end || requests.back().room() == 0) requests.emplace_back(offset);
      const absl::Span<std::byte> part = rest.first(std::min<uint64_t>(rest.size(), requests.back().room()));
      requests.back().Append(part);
      rest.remove_prefix(part.size());
      offset += part.size();
      end = offset;
    }
  }
  return requests;
}

}  // namespace quire
