#include "workloads/content.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <vector>

#include "workloads/random.h"

namespace quire {
namespace {

struct alignas(16) Page {
  uint64_t words[kWordsPerPage];
  friend bool operator==(const Page& a, const Page& b) { return std::memcmp(a.words, b.words, sizeof a.words) == 0; }
};

Page Generate(const Content& content, uint64_t page, uint32_t version) {
  Page out;
  std::memset(out.words, 0xaa, sizeof out.words);
  GeneratePage(out.words, content, page, version);
  return out;
}

// Generated at several degrees of compression, and taken from a file of random pages.
class ContentTest : public testing::TestWithParam<int> {
 protected:
  static constexpr int kFromFile = -1;

  ContentTest() : file_(100) {
    Random random(7);
    for (Page& page : file_)
      for (uint64_t& word : page.words) word = random.Next();
    content_.key = 42;
    if (GetParam() == kFromFile) {
      content_.file_pages = file_[0].words;
      content_.file_page_count = file_.size();
    } else {
      content_.fresh_pairs = static_cast<uint64_t>(GetParam());
    }
  }

  std::vector<uint64_t> NonzeroPages(uint64_t count) const {
    std::vector<uint64_t> pages;
    for (uint64_t page = 0; pages.size() < count; ++page)
      if (!IsZeroPage(content_, page, 1)) pages.push_back(page);
    return pages;
  }

  bool Right(const Page& page, uint64_t number, uint32_t version) const {
    return IsPageRight(page.words, content_, number, version);
  }

  std::vector<Page> file_;
  Content content_;
};

INSTANTIATE_TEST_SUITE_P(All, ContentTest, testing::Values(0, 1, 17, 64, 200, 256, -1));

TEST_P(ContentTest, EachPageIsRightOnlyForItself) {
  const std::vector<uint64_t> pages = NonzeroPages(40);
  for (uint64_t number : pages) {
    for (uint32_t version : {1u, 2u, 3u, ~0u}) {
      const Page page = Generate(content_, number, version);
      EXPECT_TRUE(Right(page, number, version));
      EXPECT_FALSE(Right(page, number, version - 1)) << "stale";
      EXPECT_FALSE(Right(page, number, version + 1)) << "newer";
      for (uint64_t other : pages) EXPECT_EQ(Right(page, other, version), other == number);
    }
  }
}

TEST_P(ContentTest, AnotherKeysPageIsWrong) {
  Content other = content_;
  other.key = 43;
  const uint64_t number = NonzeroPages(1)[0];
  EXPECT_FALSE(IsPageRight(Generate(content_, number, 1).words, other, number, 1));
}

TEST_P(ContentTest, ZeroedPageIsWrong) {
  const Page zero = {};
  for (uint64_t number : NonzeroPages(100)) EXPECT_FALSE(Right(zero, number, 1));
}

TEST_P(ContentTest, VersionZeroIsZeros) {
  const Page zero = {};
  EXPECT_EQ(Generate(content_, 5, 0), zero);
  EXPECT_TRUE(Right(zero, 5, 0));
  EXPECT_FALSE(Right(Generate(content_, NonzeroPages(1)[0], 1), NonzeroPages(1)[0], 0));
}

TEST_P(ContentTest, EverySingleFlippedBitIsFoundAndItsWordNamed) {
  const uint64_t number = NonzeroPages(1)[0];
  const Page right = Generate(content_, number, 9);
  for (uint32_t word = 0; word < kWordsPerPage; ++word) {
    for (int bit : {0, 31, 32, 63}) {
      Page page = right;
      page.words[word] ^= uint64_t{1} << bit;
      const PageCheck check = CheckPage(page.words, content_, number, 9);
      ASSERT_FALSE(check.good) << word;
      ASSERT_EQ(check.word, word);
      ASSERT_EQ(check.value, page.words[word]);
      ASSERT_EQ(check.wanted, right.words[word]);
    }
  }
}

TEST_P(ContentTest, TornPageIsFoundWhereverItIsTorn) {
  const uint64_t number = NonzeroPages(1)[0];
  const Page old_page = Generate(content_, number, 4);
  for (uint32_t tear = 1; tear < kWordsPerPage; ++tear) {
    Page page = Generate(content_, number, 5);
    std::memcpy(page.words, old_page.words, tear * sizeof(uint64_t));
    EXPECT_FALSE(Right(page, number, 5)) << tear;
    EXPECT_FALSE(Right(page, number, 4)) << tear;
  }
}

TEST_P(ContentTest, EqualArgumentsGiveEqualPages) {
  for (uint64_t number = 0; number < 100; ++number)
    EXPECT_EQ(Generate(content_, number, 3), Generate(content_, number, 3));
}

TEST(GeneratedContent, EveryWordDiffersFromEveryOtherVersionPageAndZero) {
  const Content content{.key = 1};
  std::vector<std::set<uint64_t>> seen(kWordsPerPage, {0});
  size_t pages = 1;
  for (uint64_t number = 0; number < 50; ++number) {
    for (uint32_t version = 1; version < 20; ++version) {
      if (IsZeroPage(content, number, version)) continue;
      ++pages;
      const Page page = Generate(content, number, version);
      for (uint32_t word = 0; word < kWordsPerPage; ++word) seen[word].insert(page.words[word]);
    }
  }
  for (const std::set<uint64_t>& values : seen) EXPECT_EQ(values.size(), pages);
}

// Of 20,000 pages; that a page is zero does not depend on its version.
int CountZeroPages(const Content& content) {
  int zeros = 0;
  for (uint64_t number = 0; number < 20000; ++number) {
    zeros += IsZeroPage(content, number, 1);
    EXPECT_EQ(IsZeroPage(content, number, 1), IsZeroPage(content, number, 77));
  }
  const Page zero = {};
  for (uint64_t number = 0; number < 200; ++number) {
    EXPECT_EQ(Generate(content, number, 1) == zero, IsZeroPage(content, number, 1));
  }
  return zeros;
}

TEST(GeneratedContent, ATenthOfThePagesIsZeroWhateverTheVersion) {
  EXPECT_NEAR(CountZeroPages(Content{.key = 1}), 2000, 200);
}

TEST(GeneratedContent, DrawnInTheHeader) {
  const Page page = Generate(Content{.key = 3, .fresh_pairs = 96}, 1, 1);
  const auto word = [&page](int record, int column) { return page.words[record * 8 + column]; };
  EXPECT_NE(word(1, 0), word(0, 0));
  EXPECT_NE(word(1, 1), word(0, 1));
  EXPECT_EQ(word(1, 2), word(0, 2));
  EXPECT_NE(word(2, 2), word(1, 2));  // one and a half fresh pairs a record
  EXPECT_EQ(word(63, 4), word(0, 4));
}

TEST(FileContent, IsAFilePageWithAStamp) {
  constexpr uint32_t kFirst = 2;  // word after the stamp
  std::vector<Page> file(3);
  for (uint64_t i = 0; i < file.size(); ++i)
    for (uint64_t& word : file[i].words) word = i;
  const Content content{.key = 9, .file_pages = file[0].words, .file_page_count = file.size()};
  std::set<uint64_t> used;
  for (uint64_t number = 0; number < 100; ++number) {
    if (IsZeroPage(content, number, 1)) continue;
    const Page page = Generate(content, number, 1);
    used.insert(page.words[kFirst]);
    for (uint32_t word = kFirst; word < kWordsPerPage; ++word) ASSERT_EQ(page.words[word], page.words[kFirst]);
    EXPECT_GT(page.words[0], file.size());
  }
  EXPECT_EQ(used, (std::set<uint64_t>{0, 1, 2}));
}

TEST(FileContent, AThirdOfThePagesIsZeroWhateverTheVersion) {
  const Page file = {};
  EXPECT_NEAR(CountZeroPages(Content{.key = 1, .file_pages = file.words, .file_page_count = 1}), 6667, 400);
}

}  // namespace
}  // namespace quire
