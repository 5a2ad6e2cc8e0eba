// Photo files to pixels: PPM by itself, PNG where libpng was found.
#pragma once

#include <cctype>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#ifdef HAS_PNG
#include <png.h>
#endif

#include "reading.hpp"

namespace photo {

constexpr long long most_pixels = 180'000'000;  // more are a mistake, or take the memory of the machine

inline void check_size(long long width, long long height) {
    if (width < 1 || height < 1 || width > most_pixels / height)
        throw std::runtime_error("it has " + std::to_string(width) + "x" + std::to_string(height) + " pixels");
}

// Binary PPM (P6) of 8 bits.
inline Photo read_ppm(const std::string& content) {
    std::size_t at = 2;
    const auto number = [&] {
        while (at < content.size() && (std::isspace(static_cast<unsigned char>(content[at])) || content[at] == '#')) {
            if (content[at] == '#') at = std::min(content.find('\n', at), content.size() - 1);
            ++at;
        }
        long long value = 0;
        while (at < content.size() && std::isdigit(static_cast<unsigned char>(content[at])) && value < most_pixels)
            value = 10 * value + (content[at++] - '0');
        return value;
    };
    const long long width = number(), height = number(), largest = number();
    check_size(width, height);
    if (largest != 255) throw std::runtime_error("its largest value is not 255, and the model is for 8 bits");
    ++at;  // one blank
    const std::size_t size = std::size_t(width) * height * 3;
    if (at > content.size() || content.size() - at < size) throw std::runtime_error("it was cut short");
    const auto start = content.begin() + static_cast<std::ptrdiff_t>(at);
    return {static_cast<int>(width), static_cast<int>(height), {start, start + static_cast<std::ptrdiff_t>(size)}};
}

#ifdef HAS_PNG
// The file without what it says of its colours: libpng would convert pixels by that, and padim takes them as they are.
inline std::string without_colours(const std::string& content) {
    std::string kept = content.substr(0, 8);
    for (std::size_t at = 8; content.size() - at >= 12;) {
        std::size_t length = 0;
        for (std::size_t byte = 0; byte < 4; ++byte) length = length << 8 | static_cast<unsigned char>(content[at + byte]);
        if (length > content.size() - at - 12) return content;  // libpng says what is wrong
        const std::string kind = content.substr(at + 4, 4);
        if (kind != "gAMA" && kind != "cHRM" && kind != "sRGB" && kind != "iCCP") kept += content.substr(at, length + 12);
        at += length + 12;
    }
    return kept;
}

// PNG of 8 bits a channel, whose pixels are all opaque.
inline Photo read_png(const std::string& file) {
    const std::string content = without_colours(file);
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    if (!png_image_begin_read_from_memory(&image, content.data(), content.size())) throw std::runtime_error(image.message);
    const int width = static_cast<int>(image.width), height = static_cast<int>(image.height);
    try {
        check_size(width, height);
        if (content.size() > 24 && content[24] == 16)
            throw std::runtime_error("it has 16 bits a channel, and the model is for 8");
    } catch (...) {
        png_image_free(&image);
        throw;
    }
    image.format = PNG_FORMAT_RGBA;
    std::vector<std::uint8_t> pixels(PNG_IMAGE_SIZE(image));
    if (!png_image_finish_read(&image, nullptr, pixels.data(), 0, nullptr)) throw std::runtime_error(image.message);
    Photo found{width, height, {}};
    found.data.reserve(pixels.size() / 4 * 3);
    for (std::size_t at = 0; at < pixels.size(); at += 4) {
        if (pixels[at + 3] != 255) throw std::runtime_error("it has transparent pixels; put it on a background first");
        found.data.insert(found.data.end(), &pixels[at], &pixels[at] + 3);
    }
    return found;
}
#endif

inline Photo read(const std::string& path) {
    std::ifstream stream(path, std::ios::binary);
    if (!stream) throw std::runtime_error("it can't be opened");
    const std::string content{std::istreambuf_iterator<char>(stream), {}};
    if (content.rfind("P6", 0) == 0) return read_ppm(content);
    if (content.rfind("\x89PNG", 0) == 0) {
#ifdef HAS_PNG
        return read_png(content);
#else
        throw std::runtime_error("it is a PNG, and this program was built without libpng; install that, or give a PPM");
#endif
    }
    throw std::runtime_error("it is neither PNG nor binary PPM");
}

}  // namespace photo
