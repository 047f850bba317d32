#include "guest/swap/file_request.h"

#include <cerrno>
#include <cstddef>
#include <vector>

#include "absl/types/span.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "guest/swap/backing_store.h"

namespace quire {
namespace {

using Step = FileRequest::Step;
using Transfer = BackingStore::Transfer;

class FileRequestTest : public ::testing::Test {
 protected:
  // `pages` pages of the file from `page` on, to or from those of memory from `from` on.
  Transfer Pages(size_t page, size_t from, size_t pages = 1) {
    return {.offset = PageCount(page).bytes(),
            .bytes = absl::MakeSpan(memory_).subspan(from * kPageSize, pages * kPageSize)};
  }
  static std::vector<FileRequest> Make(std::vector<Transfer> transfers) {
    return MakeFileRequests(transfers, SwapFileHeader());
  }
  static ByteCount SwapFileHeader() { return ByteCount::Bytes(kPageSize); }
  // One request of so many pages, scattered in memory.
  FileRequest Scattered(size_t pages) {
    FileRequest request(0);
    for (size_t i = 0; i < pages; ++i) request.Append(Pages(0, 2 * i).bytes);
    return request;
  }

  std::vector<std::byte> memory_{4 * FileRequest::kMaxBytes};
};

TEST_F(FileRequestTest, WhatIsAdjacentInTheFileIsOneRequest) {
  const std::vector<FileRequest> requests = Make({Pages(7, 0), Pages(6, 9), Pages(5, 4)});
  ASSERT_EQ(requests.size(), 1);
  EXPECT_EQ(requests[0].offset(), 6 * kPageSize);  // the header is before it
  EXPECT_EQ(requests[0].length(), 3 * kPageSize);
  ASSERT_EQ(requests[0].piece_count(), 3);
  EXPECT_EQ(requests[0].pieces()[0].iov_base, &memory_[4 * kPageSize]);
  EXPECT_EQ(requests[0].pieces()[2].iov_base, &memory_[0]);
}

TEST_F(FileRequestTest, WhatIsAdjacentInMemoryTooIsOnePiece) {
  const std::vector<FileRequest> requests = Make({Pages(5, 4), Pages(6, 5)});
  ASSERT_EQ(requests.size(), 1);
  EXPECT_EQ(requests[0].piece_count(), 1);
  EXPECT_EQ(requests[0].pieces()[0].iov_len, 2 * kPageSize);
}

TEST_F(FileRequestTest, AGapSeparatesRequests) { EXPECT_EQ(Make({Pages(5, 0), Pages(7, 1)}).size(), 2); }

TEST_F(FileRequestTest, WhatIsLargerThanARequestIsSeveral) {
  constexpr size_t kRequestPages = FileRequest::kMaxBytes / kPageSize;
  const std::vector<FileRequest> requests = Make({Pages(0, 0, 1), Pages(1, 1, 3 * kRequestPages)});
  ASSERT_EQ(requests.size(), 4);
  EXPECT_EQ(requests[0].length(), FileRequest::kMaxBytes);
  EXPECT_EQ(requests[3].length(), kPageSize);
  EXPECT_EQ(requests[3].offset(), (1 + 3 * kRequestPages) * kPageSize);
  EXPECT_EQ(requests[3].pieces()[0].iov_base, &memory_[3 * FileRequest::kMaxBytes]);
}

TEST_F(FileRequestTest, NothingIsNoRequest) { EXPECT_TRUE(Make({}).empty()); }

TEST_F(FileRequestTest, TheRestIsAskedForAfterAPart) {
  FileRequest request = Scattered(4);
  ASSERT_EQ(request.Advance(FileDirection::kWrite, 3 * kPageSize), Step::kAgain);
  EXPECT_EQ(request.offset(), 3 * kPageSize);
  EXPECT_EQ(request.length(), kPageSize);
  ASSERT_EQ(request.piece_count(), 1);
  EXPECT_EQ(request.pieces()[0].iov_base, &memory_[6 * kPageSize]);
  EXPECT_EQ(request.Advance(FileDirection::kWrite, kPageSize), Step::kDone);
  EXPECT_EQ(request.repeats(), 1);
}

TEST_F(FileRequestTest, APartMayEndInsideAPiece) {
  FileRequest request(0);
  request.Append(Pages(0, 0, 4).bytes);
  ASSERT_EQ(request.Advance(FileDirection::kRead, kPageSize), Step::kAgain);
  EXPECT_EQ(request.pieces()[0].iov_base, &memory_[kPageSize]);
  EXPECT_EQ(request.pieces()[0].iov_len, 3 * kPageSize);
}

TEST_F(FileRequestTest, AnInterruptedRequestIsAskedForAgain) {
  FileRequest request = Scattered(2);
  EXPECT_EQ(request.Advance(FileDirection::kRead, -EINTR), Step::kAgain);
  EXPECT_EQ(request.Advance(FileDirection::kRead, -EAGAIN), Step::kAgain);
  EXPECT_EQ(request.length(), 2 * kPageSize);
  EXPECT_EQ(request.Advance(FileDirection::kRead, 2 * kPageSize), Step::kDone);
}

TEST_F(FileRequestTest, ARequestThatIsNeverDoneFailsInTheEnd) {
  FileRequest request = Scattered(1);
  int answers = 0;
  while (request.Advance(FileDirection::kRead, -EAGAIN) == Step::kAgain) ASSERT_LT(++answers, 1'000'000);
  EXPECT_TRUE(request.failed());
  EXPECT_EQ(request.error(), EAGAIN);
}

TEST_F(FileRequestTest, AReadThatEndsInsideAPageIsAtTheEndOfTheFile) {
  for (const int64_t result : {int64_t{0}, int64_t{100}, int64_t{kPageSize + 512}}) {
    FileRequest request = Scattered(4);
    EXPECT_EQ(request.Advance(FileDirection::kRead, result), Step::kFailed);
    EXPECT_EQ(request.error(), FileRequest::kEndOfFile);
  }
}

TEST_F(FileRequestTest, AWriteThatEndsInsideAPageFoundNoRoom) {
  FileRequest request = Scattered(4);
  EXPECT_EQ(request.Advance(FileDirection::kWrite, 512), Step::kFailed);
  EXPECT_EQ(request.error(), ENOSPC);
}

TEST_F(FileRequestTest, ErrorsAreKept) {
  FileRequest request = Scattered(4);
  EXPECT_EQ(request.Advance(FileDirection::kWrite, -EIO), Step::kFailed);
  EXPECT_TRUE(request.failed());
  EXPECT_EQ(request.error(), EIO);
}

}  // namespace
}  // namespace quire
