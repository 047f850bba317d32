#include "vmm/libvirt/domain/document.h"

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pugixml.hpp"

namespace quire {
namespace {

using ::testing::HasSubstr;

DomainDocument Parse(const std::string& text) {
  absl::StatusOr<DomainDocument> document = DomainDocument::Parse("some.xml", text);
  EXPECT_TRUE(document.ok()) << document.status();
  return *std::move(document);
}
std::string ErrorOf(const std::string& text) {
  const absl::Status status = DomainDocument::Parse("some.xml", text).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text.substr(0, 200);
  return std::string(status.message());
}

TEST(DomainDocumentTest, ComesBackAsItWas) {
  for (const std::string text :
       {"<domain/>\n", "<!-- before --><domain>\n  <a b='c'/>\r\n <!-- in --> </domain><!-- after -->",
        "<?xml version='1.0' encoding='utf-8'?><domain><?pi x?><![CDATA[ <&> ]]>\xc3\xbc &amp; &lt;</domain>",
        "<domain a='&quot; &apos; &#10; &amp;&lt;'>&#13;x&#x1F600;</domain>"}) {
    const std::string once = Parse(text).ToXml();
    EXPECT_EQ(Parse(once).ToXml(), once);
    for (const char* part : {"<!-- before -->", "\r\n <!-- in --> ", "<?pi x?>", "<![CDATA[ <&> ]]>"}) {
      if (text.find(part) != std::string::npos) {
        EXPECT_THAT(once, HasSubstr(part));
      }
    }
  }
  EXPECT_EQ(Parse("<domain>\n  <a b=\"c\"/>\n</domain>").ToXml(), "<domain>\n  <a b='c'/>\n</domain>\n");
}

TEST(DomainDocumentTest, AByteOrderMarkIsNoText) {
  const DomainDocument document = Parse("\xef\xbb\xbf<domain>\n<a/></domain>");
  EXPECT_EQ(document.LineOf(document.root().child("a")), 2);
}

TEST(DomainDocumentTest, ElementsHaveLinesAndPaths) {
  const DomainDocument document = Parse("<domain>\n<a>\n<b/><b\n/><c/></a>\n<a/></domain>");
  const pugi::xml_node a = document.root().child("a");
  EXPECT_EQ(document.LineOf(document.root()), 1);
  EXPECT_EQ(document.LineOf(a.child("c")), 4);
  EXPECT_EQ(DomainDocument::PathOf(a), "/domain/a[1]");
  EXPECT_EQ(DomainDocument::PathOf(a.last_child().previous_sibling()), "/domain/a[1]/b[2]");
  EXPECT_EQ(DomainDocument::PathOf(a.child("c")), "/domain/a[1]/c");
}

TEST(DomainDocumentTest, NamespacesAreThoseInForce) {
  const DomainDocument document =
      Parse("<domain xmlns:q='urn:q'><q:a><b/></q:a><c xmlns='urn:c'><d/></c><e/><f:g/></domain>");
  const pugi::xml_node root = document.root();
  EXPECT_EQ(DomainDocument::NamespaceOf(root), "");
  EXPECT_EQ(DomainDocument::NamespaceOf(root.child("q:a")), "urn:q");
  EXPECT_EQ(DomainDocument::NamespaceOf(root.child("q:a").child("b")), "");
  EXPECT_EQ(DomainDocument::NamespaceOf(root.child("c").child("d")), "urn:c");
  EXPECT_EQ(DomainDocument::NamespaceOf(root.child("f:g")), "");
}

TEST(DomainDocumentTest, DocumentTypesAreRefusedWhereverTheyAre) {
  for (const char* text : {"<!DOCTYPE domain><domain/>", "<domain><!ENTITY a 'b'></domain>", "<domain/><!DOCTYPE x>"}) {
    EXPECT_THAT(ErrorOf(text), HasSubstr("some.xml:1: it has a document type")) << text;
  }
}

TEST(DomainDocumentTest, WhatIsNoCharacterIsRefused) {
  EXPECT_THAT(ErrorOf(std::string("<domain>\n\0</domain>", 19)), HasSubstr("some.xml:2: the character U+0000"));
  EXPECT_THAT(ErrorOf("<domain>\x1b</domain>"), HasSubstr("U+001b"));
  EXPECT_THAT(ErrorOf("<domain>\xef\xbf\xbf</domain>"), HasSubstr("U+ffff"));
  for (const char* bytes : {"\xfc", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc3", "\xe2\x82", "\x80"}) {
    EXPECT_NE(ErrorOf(absl::StrCat("<domain>", bytes, "</domain>")), "");
  }
  for (const char* reference : {"&#0;", "&#xD800;", "&#x110000;", "&#99999999999;", "&#;", "&#x;", "&#xg;", "&;", "& ",
                                "&lt", "&\n;", "&copy;"}) {
    EXPECT_THAT(ErrorOf(absl::StrCat("<domain>", reference, "</domain>")), HasSubstr("write &amp;")) << reference;
    EXPECT_THAT(ErrorOf(absl::StrCat("<domain a='", reference, "'/>")), HasSubstr("write &amp;")) << reference;
  }
}

TEST(DomainDocumentTest, WhatIsNotWellFormedIsRefusedWithItsLine) {
  for (const char* text : {"",
                           "\n",
                           "domain",
                           "<domain>",
                           "<domain",
                           "</domain>",
                           "<domain></a></domain>",
                           "<domain/>x",
                           "x<domain/>",
                           "&amp;<domain/>",
                           "<![CDATA[]]><domain/>",
                           "<domain/><domain/>",
                           "<a/><domain/>",
                           "<domain a=b/>",
                           "<domain a='<'/>",
                           "<domain <a/>",
                           "<domain><!-- </domain>",
                           "<domain><? </domain>",
                           "<domain a='1' a='2'/>",
                           "<domain b='",
                           "<domain/>&amp;"}) {
    EXPECT_THAT(ErrorOf(text), ::testing::StartsWith("some.xml:")) << text;
  }
  EXPECT_THAT(ErrorOf("<domain>\n\n<a></b></domain>"),
              HasSubstr("some.xml:3: this is no XML: start-end tags mismatch"));
}

TEST(DomainDocumentTest, OtherEncodingsAreRefused) {
  EXPECT_THAT(ErrorOf("<?xml version='1.0' encoding='ISO-8859-1'?><domain/>"), HasSubstr("convert the file to UTF-8"));
  EXPECT_NE(ErrorOf(std::string("\xff\xfe<\0d\0/\0>\0", 10)), "");
}

TEST(DomainDocumentTest, WhatHasNoEndIsRefused) {
  std::string deep;
  for (int i = 0; i < 200'000; ++i) deep += "<a>";
  EXPECT_THAT(ErrorOf(absl::StrCat("<domain>", deep)), HasSubstr("some.xml:1:"));
  std::string nested = "<domain>";
  for (int i = 0; i < 100'000; ++i) nested += "<a>";
  for (int i = 0; i < 100'000; ++i) nested += "</a>";
  EXPECT_THAT(ErrorOf(nested + "</domain>"), HasSubstr("more than 64 deep"));
  std::string wide = "<domain>";
  for (int i = 0; i < 100'000; ++i) wide += "<a/>";
  EXPECT_THAT(ErrorOf(wide + "</domain>"), HasSubstr("more than 10000 elements"));
  std::string attributes = "<domain";
  for (int i = 0; i < 100'000; ++i) absl::StrAppend(&attributes, " a", i, "='x'");
  EXPECT_THAT(ErrorOf(attributes + "/>"), HasSubstr("more than 64 attributes"));
  EXPECT_THAT(ErrorOf(std::string(DomainDocument::kLongest + 1, ' ')), HasSubstr("more than 4 MiB"));
}

TEST(DomainDocumentTest, ErrorsDoNothingToATerminal) {
  EXPECT_EQ(DomainError("a\nb", 3, "c\x1b[31m").message(), "a\\nb:3: c\\x1b[31m");
}

TEST(LineIndexTest, CountsFromOne) {
  const LineIndex index("a\nb\n\nc");
  EXPECT_EQ(index.LineAt(0), 1);
  EXPECT_EQ(index.LineAt(1), 1);
  EXPECT_EQ(index.LineAt(2), 2);
  EXPECT_EQ(index.LineAt(4), 3);
  EXPECT_EQ(index.LineAt(5), 4);
  EXPECT_EQ(index.LineAt(500), 4);
}

}  // namespace
}  // namespace quire
