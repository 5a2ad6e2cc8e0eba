// PNG files of 8 bits a channel, grey or colour, not interlaced; without a package.
using System;
using System.IO;
using System.IO.Compression;
using System.Text;

namespace Padim
{
    public static class Png
    {
        private const long MostPixels = 180000000; // more are a mistake, or take the memory of the machine

        /// <summary>Pixels of a PNG file.</summary>
        /// <exception cref="InvalidDataException">Another file, or a kind of PNG that this can't read; says which.</exception>
        public static Photo Read(string path)
        {
            byte[] content = File.ReadAllBytes(path);
            if (content.Length < 33 || content[0] != 0x89 || Encoding.ASCII.GetString(content, 1, 3) != "PNG")
            {
                throw new InvalidDataException("it is no PNG; save it as one");
            }
            long width = Number(content, 16), height = Number(content, 20);
            byte bits = content[24], kind = content[25], interlaced = content[28];
            if (width < 1 || height < 1 || width > MostPixels / height)
            {
                throw new InvalidDataException($"it has {width}x{height} pixels");
            }
            if (bits != 8) throw new InvalidDataException($"it has {bits} bits a channel, and the model is for 8");
            if (interlaced != 0) throw new InvalidDataException("it is interlaced; save it without");
            int channels = kind == 0 ? 1 : kind == 2 ? 3 : kind == 4 ? 2 : kind == 6 ? 4 : 0;
            if (channels == 0) throw new InvalidDataException("it has a palette; save it as RGB");
            byte[] rows = Unpack(content, height * (width * channels + 1));
            return new Photo((int)width, (int)height, Decode(rows, (int)width, (int)height, channels));
        }

        private static long Number(byte[] content, int at)
        {
            return ((long)content[at] << 24) | ((long)content[at + 1] << 16) | ((long)content[at + 2] << 8) | content[at + 3];
        }

        private static byte[] Unpack(byte[] content, long size)
        {
            var packed = new MemoryStream();
            for (long at = 8; at + 12 <= content.Length;)
            {
                long length = Number(content, (int)at);
                if (at + 12 + length > content.Length) throw new InvalidDataException("it was cut short");
                string part = Encoding.ASCII.GetString(content, (int)at + 4, 4);
                if (part == "tRNS") throw new InvalidDataException("it has a transparent colour; put it on a background first");
                if (part == "IDAT") packed.Write(content, (int)at + 8, (int)length);
                if (part == "IEND") break;
                at += 12 + length;
            }
            packed.Position = 2; // the head of zlib
            var rows = new byte[size];
            int filled = 0;
            using (var stream = new DeflateStream(packed, CompressionMode.Decompress))
            {
                int read;
                while (filled < size && (read = stream.Read(rows, filled, (int)size - filled)) > 0) filled += read;
            }
            if (filled < size) throw new InvalidDataException("it was cut short");
            return rows;
        }

        private static byte[] Decode(byte[] rows, int width, int height, int channels)
        {
            int stride = width * channels;
            var photo = new byte[width * height * 3];
            var above = new byte[stride];
            var row = new byte[stride];
            for (int line = 0; line < height; line++)
            {
                int filter = rows[line * (stride + 1)];
                for (int at = 0; at < stride; at++)
                {
                    int left = at >= channels ? row[at - channels] : 0;
                    int corner = at >= channels ? above[at - channels] : 0;
                    row[at] = (byte)(rows[line * (stride + 1) + 1 + at] + Predict(filter, left, above[at], corner));
                }
                for (int column = 0; column < width; column++)
                {
                    int from = column * channels;
                    if (channels % 2 == 0 && row[from + channels - 1] != 255)
                    {
                        throw new InvalidDataException("it has transparent pixels; put it on a background first");
                    }
                    for (int channel = 0; channel < 3; channel++)
                    {
                        photo[(line * width + column) * 3 + channel] = row[from + (channels < 3 ? 0 : channel)];
                    }
                }
                byte[] last = above;
                above = row;
                row = last;
            }
            return photo;
        }

        private static int Predict(int filter, int left, int above, int corner)
        {
            if (filter == 0) return 0;
            if (filter == 1) return left;
            if (filter == 2) return above;
            if (filter == 3) return (left + above) / 2;
            if (filter != 4) throw new InvalidDataException("it is damaged");
            int guess = left + above - corner;
            int a = Math.Abs(guess - left), b = Math.Abs(guess - above), c = Math.Abs(guess - corner);
            return a <= b && a <= c ? left : b <= c ? above : corner;
        }
    }
}
